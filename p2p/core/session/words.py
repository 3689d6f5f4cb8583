"""The words of codes and verification strings.

256 of them, so that a word is one byte. Common English nouns that are easily said over the telephone and told
apart: no two begin with the same three letters, and none sounds like another word that is spelled differently.
"""

from __future__ import annotations

from typing import Final

_LIST = """
album amber anchor apron arctic arrow atlas autumn azure bagel baker bamboo banjo barrel beacon beetle bench
bicycle bishop bonfire border bottle brick bronze bubble bucket buffalo button cabin cactus camel carbon
castle cavern cedar chapel cherry chimney cider circus clover cobalt coffee comet copper cotton cougar crystal
curtain daisy dancer delta diamond dinner doctor dolphin domino dragon dream eagle echo eclipse elephant
emerald engine envelope fabric falcon farmer feather fiddle finger flame forest fossil fountain frost gadget
galaxy garden gecko giraffe glacier globe gorilla granite guitar hammer harbor helmet hockey holiday honey
hotel iceberg igloo iron island ivory jacket jaguar jasmine jelly jigsaw journal jungle kangaroo kayak kennel
kettle kitchen kiwi koala ladder lantern lava lemon leopard lettuce library linen lizard lotus magnet mango
maple marble meadow melon meteor midnight mirror monkey muffin museum napkin nectar needle nickel ninja noodle
notebook nugget nutmeg nylon oasis ocean octopus olive onion opera orange orbit orchid otter oxygen oyster
paddle palace panda parrot peanut pebble pelican pencil pepper piano picnic pigeon pilot pirate pizza popcorn
potato pumpkin puppet purple puzzle pyramid python quartz quilt rabbit radar raisin ranch raven razor reindeer
ribbon river robin rocket ruby safari salmon sandwich sapphire shadow shovel silver skate snail sofa spider
sponge spring squirrel station storm sugar summer sunset swan table target teapot temple tennis thunder tiger
timber toast tomato topaz tornado tower tractor trumpet tulip tunnel turtle umbrella unicorn valley vanilla
velvet village violin volcano voyage waffle wagon walnut water whistle willow window wolf wombat woodland
yellow yogurt zebra zenith zipper
"""

WORDS: Final[tuple[str, ...]] = tuple(_LIST.split())
BITS_PER_WORD: Final = 8


def spell(data: bytes) -> str:
    """One word a byte, with hyphens between: the form in which a person reads `data` aloud."""
    return "-".join(WORDS[byte] for byte in data)
