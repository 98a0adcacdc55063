"""Download weights by name from the Hugging Face hub: `timm/resnet50.tv_in1k`.

A name is a repository that holds a `model.safetensors`, optionally followed by `@` and a revision: a commit, a branch
or a tag. The package `huggingface_hub` downloads the file once and keeps it in its cache (`HF_HOME`, `HF_HUB_CACHE`;
with `HF_HUB_OFFLINE=1` it looks nowhere else).

Without a revision, a name in `PINNED` means the commit given there, and the file must have the SHA-256 given there; any
other name means the branch `main`. The hub could not be reached where this was written: commits and hashes are from
public code that pins the same files, and for two names none was found. The `config.json` of each run records the
SHA-256 of the weights it started from.
"""

import hashlib
import re
from pathlib import Path

from mtlflax.errors import UserError
from mtlflax.models.encoders import ENCODERS
from mtlflax.models.pretrained.files import SUFFIXES

# torchvision's first ImageNet weights of each encoder ("IMAGENET1K_V1"), as timm publishes them.
DEFAULTS = {name: f"timm/{name}.tv_in1k" for name in ENCODERS}
# The commit, and the SHA-256 of the file.
PINNED = {
    "timm/resnet18.tv_in1k": (
        "bbd144b3e5565108aad885f145491d11bc6ce807",
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    ),
    "timm/resnet34.tv_in1k": (
        "1b7b21cca82ff974d341713f777bf740c2db38c4",
        "0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235",
    ),
    "timm/resnet50.tv_in1k": (
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    "timm/densenet121.tv_in1k": (
        "f0d0f2698a02cb133b09d48396db6e1e46fe9f3b",
        "c894c6d9caa317a8ca1942986dee7a16a86c77734a4d691d2abe05389cfef358",
    ),
}
_FILE = "model.safetensors"


def is_name(source: str) -> bool:
    """Return whether this is a repository on the hub, `owner/name[@revision]`, and not the path of a file.

    >>> is_name("timm/resnet50.tv_in1k"), is_name("microsoft/resnet-50@main"), is_name("weights/resnet50.pth")
    (True, True, False)
    >>> is_name("./timm/resnet50"), is_name("resnet50")
    (False, False)
    """
    named = re.fullmatch(r"\w[\w.-]*/[\w.-]+(@.+)?", source) is not None
    return named and not source.lower().endswith(SUFFIXES) and not Path(source).exists()


def download(name: str) -> Path:
    """Return the path of the weights of `owner/name` or `owner/name@revision`, downloaded if not in the cache.

    UserError if the package is missing, the hub has no such file or is out of reach, or `PINNED` has another file.
    """
    repository, _, revision = name.partition("@")
    commit, sha256 = PINNED.get(name, ("main", ""))
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(
            f"there is no file {name}; to download it from the Hugging Face hub: pip install huggingface_hub"
        ) from error
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, _FILE, revision=revision or commit))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"the Hugging Face hub has no {name} (or it is private), and no such file exists") from error
    except Exception as error:  # whatever the package, its HTTP client or its storage raises
        # "Local" means that the hub was not reached: the file is not in the cache, but may be on the hub.
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(f"{name} on the Hugging Face hub has no {_FILE}") from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot be downloaded from the Hugging Face hub: {reason}") from error

    if sha256:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise UserError(
                f"{path} is not the known file of {name}: its SHA-256 begins with {digest[:12]}, not {sha256[:12]}. "
                f"Delete it to download it again, or name {name}@main to accept any file"
            )
    return path
