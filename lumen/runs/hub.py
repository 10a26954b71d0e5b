"""Upload of a folder to the Hugging Face Hub."""

import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lumen.core.errors import BadConfig, Mistake


def verify_repository(name: str) -> None:
    """Check the name of a repository, and that there is a token to write to it.

    Raises:
        BadConfig: It is no name of a repository.
        Mistake: There is no token.
    """
    try:
        validate_repo_id(name)
        if name.count("/") != 1:
            raise HFValidationError("it has no user")
    except HFValidationError as error:
        raise BadConfig(f"push cannot be {name!r} ({error}); write push=USER/NAME.") from None
    if get_token() is None:
        raise Mistake(f"push={name} needs a token of the Hub; run `hf auth login`, or set HF_TOKEN.")


def upload(directory: Path, name: str, private: list[str]) -> str:
    """Upload a folder to a repository, which is created if it does not exist, and return its address.

    Args:
        private: Names of files that are not uploaded.

    Raises:
        Mistake: The Hub could not be reached, or refused.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=directory, commit_message="Export of LUMEN", ignore_patterns=private
        )
    except (OSError, ValueError) as error:  # every error of the Hub is one of the two
        exclude = "".join(f" --exclude {file}" for file in private)
        reason = " ".join(str(error).split())[:200]
        raise Mistake(
            f"{directory} is written, but could not be uploaded ({reason}); run "
            f"`hf upload {name} {shlex.quote(str(directory))} .{exclude}`."
        ) from error
    return str(address)
