"""A checkpoint from the Hugging Face hub, without waiting for a hub that cannot be reached."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

PROBE_SECONDS = 2.0
FILES = ["config.json", "*.safetensors", "pytorch_model.bin", "vocab.txt", "tokenizer*.json"]
SENTENCE_FILES = ["modules.json", "*config*.json", "*/pytorch_model.bin"]
"""What sentence-transformers keeps besides."""


def fetch_checkpoint(repo_id: str, *, sentence: bool = False) -> tuple[Path | None, str]:
    """(folder, "") of the checkpoint from the local cache or the hub, or (None, why it cannot be had).

    Args:
        repo_id: its name on the hub.
        sentence: with the files of sentence-transformers. A cache may have the checkpoint without them, so the hub is
            asked also where the cache has it; if the hub cannot be had, the answer has the folder and the reason.
    """
    import huggingface_hub
    from huggingface_hub import constants

    patterns = FILES + SENTENCE_FILES * sentence
    cached = None
    with contextlib.suppress(OSError, ValueError):  # not in the cache
        cached = Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=patterns, local_files_only=True))
    if cached is not None and (not sentence or (cached / "modules.json").is_file()):
        return cached, ""
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "") not in ("", "0"):
        return cached, "the hub is switched off"
    if not reachable(constants.ENDPOINT):
        return cached, "the hub cannot be reached"
    try:
        return Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=patterns)), ""
    except Exception as error:  # the HTTP library's errors differ between versions of huggingface_hub
        return cached, f"the hub did not give {repo_id}: {type(error).__name__}"


def reachable(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether something accepts connections at ``url``, or at the proxy that would be used for it."""
    target = urlsplit(url)
    proxies = urllib.request.getproxies()
    if target.scheme in proxies and not urllib.request.proxy_bypass(target.hostname or ""):
        proxy = proxies[target.scheme]
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = target.port or (443 if target.scheme == "https" else 80)
    connected = threading.Event()

    def probe() -> None:
        try:
            with socket.create_connection((target.hostname or "", port), timeout=seconds):
                connected.set()
        except OSError:
            pass

    # In a thread of its own: the time-out of a socket does not cover a name server that does not answer.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return connected.is_set()
