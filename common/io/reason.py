"""What a library's long error says, in one sentence."""

from __future__ import annotations

import re


def reason(error: BaseException) -> str:
    """What ITK, or any other library, says last, without the places in ITK's source."""
    text = re.split(r"ERROR: |\[nrrd\] |\.[ch]xx:\d+: ", " ".join(str(error).split()))[-1]
    return re.sub(r"^\w+(\(0x[0-9a-f]+\))?: | Reason: .*", "", text).rstrip(".")
