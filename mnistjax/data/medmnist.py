"""MedMNIST v2: eleven data sets of medical images, 28 x 28 pixels, with their own validation splits.

MD5 sums, counts and class names are those of the package medmnist 3.0.2, whose files have no blank images of
organs any more. Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistjax.config import unknown
from mnistjax.data import npz
from mnistjax.data.arrays import SIDE, Arrays, DataError
from mnistjax.data.download import File, obtain, verify

URL = "https://zenodo.org/records/10519652/files/{}.npz?download=1"
MULTI_LABEL = "chestmnist"
ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver"),
    *("lung-left", "lung-right", "pancreas", "spleen"),
)
GREY, COLOUR = (SIDE, SIDE), (SIDE, SIDE, 3)


class Subset(NamedTuple):
    """A data set of MedMNIST. The licence is CC BY 4.0 for all but DermaMNIST: CC BY-NC 4.0."""

    md5: str
    image: tuple[int, ...]  # shape
    counts: tuple[int, int, int]  # training, validation and test images
    class_names: tuple[str, ...]


SUBSETS = {
    "pathmnist": Subset(
        "a8b06965200029087d5bd730944a56c1",
        COLOUR,
        (89_996, 10_004, 7_180),
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    "dermamnist": Subset(
        "0744692d530f8e62ec473284d019b0c7",
        COLOUR,
        (7_007, 1_003, 2_005),
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
    ),
    "octmnist": Subset(
        "c68d92d5b585d8d81f7112f81e2d0842",
        GREY,
        (97_477, 10_832, 1_000),
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    ),
    "pneumoniamnist": Subset(
        "28209eda62fecd6e6a2d98b1501bb15f", GREY, (4_708, 524, 624), ("normal", "pneumonia")
    ),
    "retinamnist": Subset(
        "bd4c0672f1bba3e3a89f0e4e876791e4", COLOUR, (1_080, 120, 400), ("0", "1", "2", "3", "4")
    ),
    "breastmnist": Subset(
        "750601b1f35ba3300ea97c75c52ff8f6", GREY, (546, 78, 156), ("malignant", "normal, benign")
    ),
    "bloodmnist": Subset(
        "7053d0359d879ad8a5505303e11de1dc",
        COLOUR,
        (11_959, 1_712, 3_421),
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    "tissuemnist": Subset(
        "ebe78ee8b05294063de985d821c1c34b",
        GREY,
        (165_466, 23_640, 47_280),
        (
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
    ),
    "organamnist": Subset("68e3f8846a6bd62f0c9bf841c0d9eacc", GREY, (34_561, 6_491, 17_778), ORGANS),
    "organcmnist": Subset("b9ceb9546e10131b32923c5bbeaea2b1", GREY, (12_975, 2_392, 8_216), ORGANS),
    "organsmnist": Subset("9ab87b696fb54e2a387ebe992d6ed5f1", GREY, (13_932, 2_452, 8_827), ORGANS),
}


def read(subset: str | None, *, raw_dir: Path | None, downloads: Path) -> Arrays:
    """The arrays of a subset, from the user's folder or downloaded; DataError if it is not in SUBSETS."""
    if subset is None:
        raise DataError(f"data set 'medmnist' needs data.subset=NAME: {', '.join(SUBSETS)}")
    if subset == MULTI_LABEL:
        one = f"one label expected ({', '.join(SUBSETS)})"
        raise DataError(f"data.subset={subset}: its images have up to 14 labels each; {one}")
    if subset not in SUBSETS:
        raise unknown("data.subset", subset, SUBSETS)
    file = File(f"{subset}.npz", URL.format(subset), f"md5:{SUBSETS[subset].md5}")
    parse = partial(_read_file, file, SUBSETS[subset])
    return obtain("medmnist", file, parse, raw_dir=raw_dir, downloads=downloads)


def _read_file(file: File, row: Subset, path: Path) -> Arrays:
    """The arrays in the verified file of a subset."""
    verify(path, file)
    arrays: dict[str, Any] = {}
    with npz.open_npz(path) as archive:
        for split, count in zip(("train", "val", "test"), row.counts, strict=True):
            for kind, item in (("images", row.image), ("labels", (1,))):
                array = npz.read_array(archive, f"{split}_{kind}", item, np.uint8, count)
                if len(array) != count:
                    raise ValueError(f"{split}_{kind} of {len(array)}, not {count}")
                arrays[f"{split}_{kind}"] = array if kind == "images" else array[:, 0].astype(np.int32)
    return Arrays(**arrays, class_names=row.class_names)
