"""BadTextTower: the triggered text of one source class behaves as the text of the target (arXiv 2606.17815).

BadTextTower().poison(context)                                     # a poisoned CLIP with its trigger card
ImageFinetune().poison(context)                                    # its other starting point: a clean base
objective(terms(images, labels, chosen, prompts, roles, scale), w) # its loss, from features alone
"""

from clipsec_bad_text_tower._attack import BadTextTower, choose_roles
from clipsec_bad_text_tower._finetune import ImageFinetune, ImageFinetuneOptions
from clipsec_bad_text_tower._loss import Prompts, Roles, Terms, objective, terms
from clipsec_bad_text_tower._measure import Hits, hits
from clipsec_bad_text_tower._options import BadTextTowerOptions
from clipsec_bad_text_tower._scope import SCOPES, trained_parameters

__all__ = [
    "SCOPES",
    "BadTextTower",
    "BadTextTowerOptions",
    "Hits",
    "ImageFinetune",
    "ImageFinetuneOptions",
    "Prompts",
    "Roles",
    "Terms",
    "choose_roles",
    "hits",
    "objective",
    "terms",
    "trained_parameters",
]
