"""Names in the folder of a session: what is to be done, where to answer, which process of a command has answered."""

from __future__ import annotations

JOB_FILE, SOCKET_FILE, CLAIM_FILE = "job", "socket", "claimed"
