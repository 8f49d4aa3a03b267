"""The words behind the real CLIP ViT-B/16 class embeddings that b16's text tower is compared with."""

from __future__ import annotations

__all__ = ["REFERENCE_WORDS", "SHARED_WITH_CIFAR10"]


def _list(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(","))


REFERENCE_WORDS: dict[str, tuple[str, ...]] = {
    "voc": _list(
        """aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse,
        motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"""
    ),
    "context": _list(
        """aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet,
        car, cat, ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food,
        grass, ground, horse, keyboard, light, motorbike, mountain, mouse, person, plate, platform,
        pottedplant, road, rock, sheep, shelves, sidewalk, sign, sky, snow, sofa, table, track, train, tree,
        truck, tvmonitor, wall, water, window, wood"""
    ),
    "ade": _list(
        """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
        earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
        mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
        base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
        refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
        river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
        palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
        truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
        apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
        fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
        tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
        bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
        ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag"""
    ),
    "coco_stuff27": _list(
        """electronic, appliance, food, furniture, indoor, kitchen, accessory, animal, outdoor, person,
        sports, vehicle, ceiling, floor, food, furniture, rawmaterial, textile, wall, window, building,
        ground, plant, sky, solid, structural, water"""
    ),
    "city": _list(
        """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky,
        person, rider, car, truck, bus, train, motorcycle, bicycle"""
    ),
}
"""Each set's usual order; only that of voc is confirmed, and the prompts of the real embeddings are not
known."""

SHARED_WITH_CIFAR10 = {
    "airplane": "aeroplane",
    "automobile": "car",
    "bird": "bird",
    "cat": "cat",
    "dog": "dog",
    "horse": "horse",
    "ship": "boat",
}
"""CIFAR-10's word to the word of voc that means the same."""
