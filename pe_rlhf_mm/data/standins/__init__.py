"""Open data in the published formats of data that cannot be shipped: every family runs on something, offline."""

from pe_rlhf_mm.data.standins.stand_in import STAND_INS, StandIn

__all__ = ["STAND_INS", "StandIn"]
