"""The classes of COCO in its own numbering (1 to 90 with gaps), as RF-DETR reports them."""

from __future__ import annotations

# An empty name is an id that COCO never used.
_NAMES = """\
person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,
stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,
backpack,umbrella,,,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,
baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,cup,fork,
knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,
couch,potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,
microwave,oven,toaster,sink,refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,
toothbrush\
""".replace("\n", "").split(",")

COCO_91: dict[str, int] = {name: number for number, name in enumerate(_NAMES, start=1) if name}
"""Class name -> COCO category id (80 classes, ids 1..90)."""

COCO_80_TO_91: tuple[int, ...] = tuple(COCO_91.values())
"""Index of a class in the usual YOLO numbering (0..79) -> COCO category id."""
