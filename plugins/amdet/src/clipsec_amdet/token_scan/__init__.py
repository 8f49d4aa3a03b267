"""Token scan: trigger words of a text tower, found beside its clean reference."""

from clipsec_amdet.token_scan._detector import TokenScan
from clipsec_amdet.token_scan._options import Options
from clipsec_amdet.token_scan._pull import insert_ids, moves, pull

__all__ = ["Options", "TokenScan", "insert_ids", "moves", "pull"]
