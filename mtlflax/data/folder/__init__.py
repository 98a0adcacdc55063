"""A data set in your own folders: `config.data.name = "folder"`.

`config.data.folder` says which files are the images, and for each further field its kind and its files:

    config.data.folder = ConfigDict({
        "list": "",                              # or a CSV or JSON list of frames, instead of patterns
        "image": "images/{split}/*",
        "splits": {"train": "train", "val": "val"},
        "val_share": 0.2,
        "fields": {
            "segmentation": {"kind": "labels", "files": "masks/{split}/*", "classes": "found"},
            "depth": {"kind": "depth", "files": "depth/{split}/*", "scale": 0.001, "unit": "metres"},
        },
    })

`mtlflax.data.folder.frames` says how files become frames and splits, `mtlflax.data.folder.lists` what lists may hold,
`mtlflax.data.folder.reading` what a field may be, and `python -m mtlflax.data.folder --check` what is in the folders.
"""

from mtlflax.data.folder.source import Folder, open_folder

__all__ = ["Folder", "open_folder"]
