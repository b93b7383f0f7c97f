"""Whether a cluster admits only who has its token: without one, whoever reaches it may run code."""

import ipaddress
import json
import urllib.error
import urllib.request
from urllib.parse import urlsplit

ANSWER_S = 30.0


def is_this_machine(host: str) -> bool:
    """Whether the host is one that only this machine's own processes reach."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def joined_cluster_is_open() -> bool:
    """Whether the Ray that this process has joined can be reached and used by anyone."""
    import ray

    address: str = ray.get_runtime_context().gcs_address
    if is_this_machine(address.rpartition(":")[0]):
        return False
    # A worker has the cluster's mode; this process has its own, whatever the cluster asks for.
    asked = ray.remote(num_cpus=0)(_asks_for_token).remote()
    return not ray.get(asked, timeout=ANSWER_S)


def dashboard_is_open(url: str) -> bool:
    """Whether the cluster behind that dashboard can be reached and used by anyone.

    Raises:
        OSError: nothing answers there.
    """
    if is_this_machine(urlsplit(url).hostname or ""):
        return False
    question = f"{url.rstrip('/')}/api/authentication_mode"
    try:
        with urllib.request.urlopen(question, timeout=ANSWER_S) as answer:
            mode = json.loads(answer.read()).get("authentication_mode")
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)  # who must be known to ask even this needs a token
    return bool(mode != "token")


def refusal(address: str) -> str:
    """Why a cluster at that address is not used, and what to do."""
    return (
        f"the Ray cluster at {address} must ask for a token, it admits anyone who reaches it, and "
        "whoever is admitted may run code: start its nodes with RAY_AUTH_MODE=token and one token "
        "in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, here as well, or say that its network is "
        "closed with --ray.allow_cluster_without_token true"
    )


def _asks_for_token() -> bool:
    from ray._private.authentication import authentication_utils

    return bool(authentication_utils.is_token_auth_enabled())
