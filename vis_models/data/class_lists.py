"""The categories of well-known data sets by the name of the set: for checkpoints, which number classes and name none.

Labels need none of these: a data set's own JSON is the authority. Ids are the data set's. COCO numbers 80 categories up
to 90; a network with an output for every number has ten that nothing was trained for.
"""

from vis_models.config import BadConfig, nearest
from vis_models.data.annotations import Category

_YTVIS2019 = """person, giant_panda, lizard, parrot, skateboard, sedan, ape, dog, snake, monkey, hand, rabbit, duck,
cat, cow, fish, train, horse, turtle, bear, motorbike, giraffe, leopard, fox, deer, owl, surfboard, airplane, truck,
zebra, tiger, elephant, snowboard, boat, shark, mouse, frog, eagle, earless_seal, tennis_racket"""
_YTVIS2021 = """airplane, bear, bird, boat, car, cat, cow, deer, dog, duck, earless_seal, elephant, fish, flying_disc,
fox, frog, giant_panda, giraffe, horse, leopard, lizard, monkey, motorbike, mouse, parrot, person, rabbit, shark,
skateboard, snake, snowboard, squirrel, surfboard, tennis_racket, tiger, train, truck, turtle, whale, zebra"""
_OVIS = """Person, Bird, Cat, Dog, Horse, Sheep, Cow, Elephant, Bear, Zebra, Giraffe, Poultry, Giant_panda, Lizard,
Parrot, Monkey, Rabbit, Tiger, Fish, Turtle, Bicycle, Motorcycle, Airplane, Boat, Vehical"""
_COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, -, stop
sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, -, backpack, umbrella, -,
-, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet, -, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, -, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush"""
"""`-`: a number without a category."""

NAMES = ("coco", "ytvis2019", "ytvis2021", "ovis")


def class_list(name: str, outputs: int) -> tuple[Category, ...]:
    """The categories of a data set, in the order of the outputs of a network that was trained on it.

    Args:
        name: one of NAMES.
        outputs: classes that the network tells apart, without background.

    Raises:
        BadConfig: no such data set, or a network of another number of classes.
    """
    if name not in NAMES:
        meant = nearest(name, NAMES)
        hint = f"did you mean {meant}" if meant else f"expected one of {', '.join(NAMES)}, or a file"
        raise BadConfig(f"no data set {name!r} is known, {hint}")
    numbered = list(enumerate(_listed(name), start=1))
    used = [Category(id=number, name=word) for number, word in numbered if word != "-"]
    every = [Category(id=number, name=f"unused_{number}" if word == "-" else word) for number, word in numbered]
    fitting = [found for found in (used, every) if len(found) == outputs]
    if not fitting:
        counts = " or ".join(dict.fromkeys(f"{len(found)}" for found in (used, every)))
        raise BadConfig(f"{name} has {counts} classes, the network tells {outputs} apart: name what it was trained on")
    return tuple(fitting[0])


def _listed(name: str) -> list[str]:
    text = {"coco": _COCO, "ytvis2019": _YTVIS2019, "ytvis2021": _YTVIS2021, "ovis": _OVIS}[name]
    return [" ".join(word.split()) for word in text.split(",")]
