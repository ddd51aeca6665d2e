"""The stand-in Google trusts what a manifest or recipe names, and takes the place of Google."""

from __future__ import annotations

from tests.support.world import World

STS = "https://sts.googleapis.com/v1/token"
IAM = "https://iamcredentials.googleapis.com"


def led_here(world: World, text: str) -> str:
    """The text with this machine's stand-ins in place of Google's endpoints."""
    assert STS in text
    assert IAM in text
    return text.replace(STS, world.google.sts_url).replace(IAM, world.google.public_url)


def let_in(world: World, provider: str, subject_token: str, account: str) -> None:
    """Trust this token of this provider (`projects/…/providers/…`) to act as the account."""
    audience = f"//iam.googleapis.com/{provider}"
    pool = provider.rpartition("/providers/")[0]
    principal = f"principal://iam.googleapis.com/{pool}/subject/test"
    world.google.directory.federate(audience, {subject_token: principal})
    world.google.directory.grant_token_creator(account, principal)
