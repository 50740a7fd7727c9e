"""OpenImages in miniature, drawn, in the layout in which it is published."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

MIDS = {
    "Dog": "/m/0bt9lr",
    "Sea turtle": "/m/0120dh",
    "Tortoise": "/m/011k07",
    "Person": "/m/01g317",
    "Drum": "/m/026t6",
    "Panda": "/m/03bj1",
}
BOX_COLUMNS = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction"
MASK_COLUMNS = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
LEFT, RIGHT = (0.0, 0.5, 0.0, 1.0), (0.5, 1.0, 0.0, 1.0)
"""XMin, XMax, YMin, YMax."""


class Release:
    """A drawn miniature of a split as it is published, image by image and object by object."""

    def __init__(self, folder: Path, split: str = "train") -> None:
        self.folder, self.split = folder, split
        self.boxes: list[str] = []
        self.masks: list[str] = []
        self.archives: dict[str, dict[str, bytes]] = {}
        (folder / split).mkdir(parents=True)

    def image(self, image: str, width: int = 60, height: int = 40) -> None:
        Image.new("RGB", (width, height), (90, 90, 90)).save(self.folder / self.split / f"{image}.jpg")

    def object(
        self,
        image: str,
        name: str,
        box: tuple[float, ...] = LEFT,
        png_px: tuple[int, int] | None = (60, 40),
        group: int = 0,
        depiction: int = 0,
    ) -> str:
        """A box; with `png_px` (width, height) also a mask that fills it. Returns the name of the PNG."""
        label, number = MIDS[name], f"{len(self.boxes):08x}"
        sides = ",".join(f"{side:.6f}" for side in box)
        self.boxes.append(f"{image},xclick,{label},1,{sides},0,0,{group},{depiction}")
        file = f"{image}_{label.replace('/', '')}_{number}.png"
        if png_px:
            self.masks.append(
                f"{file},{image},{label},{number},{','.join(str(side) for side in box)},0.8,0.1 0.2 1;0.3 0.4 0"
            )
            mask = np.zeros(png_px[::-1], np.uint8)
            xs, ys = [round(s * png_px[0]) for s in box[:2]], [round(s * png_px[1]) for s in box[2:]]
            mask[ys[0] : ys[1], xs[0] : xs[1]] = 255
            png = BytesIO()
            Image.fromarray(mask).convert("1").save(png, "PNG")
            self.archives.setdefault(image[0], {})[file] = png.getvalue()
        return file

    def write(self) -> Path:
        folder, split = self.folder, self.split
        rows = [f"{label},{name}" for name, label in MIDS.items()]
        (folder / "oidv7-class-descriptions-boxable.csv").write_text("\n".join(["LabelName,DisplayName", *rows]) + "\n")
        boxes = "oidv6-train-annotations-bbox.csv" if split == "train" else f"{split}-annotations-bbox.csv"
        (folder / boxes).write_text("\n".join([BOX_COLUMNS, *self.boxes]) + "\n")
        masks_csv = folder / f"{split}-annotations-object-segmentation.csv"
        masks_csv.write_text("\n".join([MASK_COLUMNS, *self.masks]) + "\n")
        (folder / f"{split}-masks").mkdir(exist_ok=True)
        for digit, files in self.archives.items():
            path = folder / f"{split}-masks" / f"{split}-masks-{digit}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for number, (name, png) in enumerate(files.items()):  # half of them stored as they are
                    archive.writestr(name, png, zipfile.ZIP_STORED if number % 2 else zipfile.ZIP_DEFLATED)
        return folder
