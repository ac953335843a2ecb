"""Indexes in the runner: built in the batch lane, held in memory and asked in the serve lane.

building ─▶ parts in the workspace ─▶ shards ─▶ files: manifest.json, fit.safetensors, shard-….safetensors
extending, compacting ─▶ the same files, those that change written anew
                                                  │ opened: checksums, origin
explaining ─▶ residents: fit, shards, model, data ◀┘
"""
