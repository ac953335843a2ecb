"""Training perturbation: how a change of training inputs changes predictions, and the attack that follows from it.

`perturbation_influence` returns I_pert(i, T) = −s_Tᵀ ∇ₓ∇_θ ℓ_i; `attack` iterates it (Koh & Liang 2017, section 5.2).
"""
