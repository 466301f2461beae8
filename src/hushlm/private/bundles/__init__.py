"""Prepared answers on disk: each is good for one use, whatever happens in between.

A store holds one party's halves for one peer, each in a file of its own, and a ledger of the identities that were used. What makes a
second use impossible is the ledger, written to disk before any word is given out; files, clocks and names play no part in it.
"""

from hushlm.private.bundles.bundle_errors import BundleError, BundleStoreError
from hushlm.private.bundles.bundle_file import BundleInfo
from hushlm.private.bundles.store import BundleStore, peers_of

__all__ = ["BundleError", "BundleInfo", "BundleStore", "BundleStoreError", "peers_of"]
