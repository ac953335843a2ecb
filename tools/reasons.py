"""Write docs/errors.md from the comments in errors.proto, or check that it is up to date.

python tools/reasons.py generate | check
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "proto/undue/v1/errors.proto"
PAGE = ROOT / "docs/errors.md"

HEAD = """# Errors

Generated from `proto/undue/v1/errors.proto` by `make proto`.

Every error is a `google.rpc.Status` with one `ErrorInfo` of domain `undue`, whose `reason` is one of these and never
changes its name, a `RequestInfo`, and a `BadRequest` where a field is wrong. The SDK raises the subclass of
`undue.Error` for the status code, with `.reason`, `.metadata`, `.violations` and `.request_id`; a job that failed
raises `JobFailed` with the reason of its failure.

| reason | meaning |
|---|---|
"""


def page() -> str:
    """Return the page."""
    rows = re.findall(r"((?:  // .+\n)+)  ERROR_REASON_(\w+) = [1-9]", SOURCE.read_text())
    return HEAD + "".join(f"| `{name}` | {' '.join(re.findall('// (.+)', text))} |\n" for text, name in rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["generate"]:
        PAGE.write_text(page())
    elif sys.argv[1:] == ["check"]:
        if PAGE.read_text() != page():
            sys.exit("docs/errors.md is out of date: run `make proto`")
    else:
        sys.exit(__doc__)
