//! A store without room: what is refused, how, and what is not.

use std::time::Duration;

use casemate_api::State;
use casemate_api::limits::STORE_AWAY_S;
use pollster::block_on;
use serde_json::json;

use crate::rig::{Rig, UNLOCK, ed25519, passphrase_of, sign_something};

const NO_ROOM: &str = "The disk of the HSM is nearly full, so nothing can be added. Delete keys, or give it more room.";

#[test]
fn on_a_full_disk_what_adds_is_refused_with_507_and_everything_else_works() {
    let rig = Rig::operational();
    rig.sim.store.fill(true);
    rig.sim.local.fill(true);
    let (admin, ns1) = (rig.admin(), rig.user("ns1~admin"));
    let generate = json!({"type": "EC_P256", "mechanisms": ["ECDSA_Signature"]});
    let user = json!({"realName": "", "role": "Operator", "passphrase": "a passphrase of it"});
    admin.put("/keys/new", ed25519()).is(507).says(NO_ROOM);
    ns1.post("/keys/generate", generate).is(507).says(NO_ROOM);
    admin.put("/users/new", user).is(507).says(NO_ROOM);
    admin.put("/namespaces/new", "").is(507).says(NO_ROOM);
    admin.put("/users/operator/tags/a-new-tag", "").is(507).says(NO_ROOM);
    admin.put("/keys/k/restrictions/tags/a-new-tag", "").is(507).says(NO_ROOM);

    rig.operator().post("/keys/k/sign", sign_something()).is(200);
    admin.post("/users/operator/passphrase", json!({"passphrase": passphrase_of("operator")})).is(204);
    admin.post("/keys/k/move", json!({"newId": "longer"})).is(507).says(NO_ROOM);
    admin.post("/keys/k/move", json!({"newId": "l"})).is(200);
    admin.delete("/keys/l").is(204);
    admin.delete("/users/operator2").is(204);
    admin.put("/config/unlock-passphrase", json!({"newPassphrase": UNLOCK, "currentPassphrase": UNLOCK})).is(204);
    admin.delete("/namespaces/ns1").is(204);
    admin.post("/lock", "").is(204);
    rig.unlock().is(204);
    for _ in 0..2 * STORE_AWAY_S {
        rig.sim.clock.advance(Duration::from_secs(1));
        block_on(rig.hsm.probe());
    }
    assert_eq!(rig.hsm.state(), State::Operational, "a full disk is not a failed one");
    rig.sim.store.fill(false);
    rig.admin().put("/keys/new", ed25519()).is(204);
}
