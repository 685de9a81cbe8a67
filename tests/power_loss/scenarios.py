"""All scenarios, by name."""

from __future__ import annotations

from tests.power_loss.commands import Decrypt, Encrypt, Init, KeystoreWrites, Rotation
from tests.power_loss.load import MixedLoad, MixedLoadWithoutFullPageWrites
from tests.power_loss.scenario import Scenario
from tests.power_loss.structure import (
    Databases,
    Promotion,
    TablespacesBySql,
    TablespacesByTde,
    WalRecycling,
)

SCENARIOS: dict[str, type[Scenario]] = {
    scenario.name: scenario
    for scenario in (
        MixedLoad,
        MixedLoadWithoutFullPageWrites,
        TablespacesBySql,
        TablespacesByTde,
        Databases,
        WalRecycling,
        Promotion,
        Init,
        KeystoreWrites,
        Rotation,
        Encrypt,
        Decrypt,
    )
}
