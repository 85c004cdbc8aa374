//! The simulator, for a few simulated hours. `scripts/simulate` runs more.

mod sim;

use sim::clock::SEC;
use sim::run;
use sim::setup::Setup;

#[test]
fn the_same_seed_gives_the_same_events() {
    let setup = Setup { length: 120 * SEC, ..Setup::new(1, 3) };
    let (one, two) = (run::one(setup.clone(), None), run::one(setup, None));
    assert_eq!((one.hash, one.events), (two.hash, two.events));
}
