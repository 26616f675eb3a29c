//! Long runs at random, with more of everything than could be explored, and what must come of them in the end: once
//! nothing goes wrong any more, a leader serves, and everyone has the same.

use super::super::{Limits, Role};
use super::Store;
use super::machine::timeless;
use super::world::{Action, Rules, World};

const SEEDS: u64 = 500;
const NODES: u8 = 4;

/// xorshift64*: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    const fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    const fn node(&mut self) -> u8 {
        self.below(NODES as u64) as u8
    }
}

/// Epochs with leaders and replicas at random; damage needs another replica that has everything.
fn rules(dice: &mut Dice) -> Rules {
    let mut epochs = Vec::new();
    for _ in 0..4 + dice.below(6) {
        let count = 2 + dice.below(3);
        let mut replicas = Vec::new();
        while (replicas.len() as u64) < count {
            let node = dice.node();
            if !replicas.contains(&node) {
                replicas.push(node);
            }
        }
        if let Some((_, last)) = epochs.last()
            && dice.below(3) > 0
        {
            replicas.clone_from(last);
        }
        epochs.push((
            replicas[dice.below(replicas.len() as u64) as usize],
            replicas,
        ));
    }
    Rules {
        nodes: NODES,
        epochs,
        proposals: 40,
        crashes: 12,
        damages: 3,
        ticks: 100,
        flushes: 60,
        disorder: 60,
        fault: None,
        leave_keys: false,
        limits: timeless(Limits {
            recent_bytes: 100 * dice.below(3) as usize,
            window_entries: 1 + dice.below(4) as usize,
            window_bytes: 1 + 200 * dice.below(3) as usize,
            message_bytes: 1 + 100 * dice.below(3) as usize,
            ..Limits::default()
        }),
    }
}

/// Whether the schedule takes this action when it comes up: what goes wrong is rarer than what goes on.
fn is_taken(world: &World, action: &Action, dice: &mut Dice) -> bool {
    let one_in = match action {
        Action::Damage(_) if world.has_suspects() => return false,
        Action::Damage(_) => 40,
        Action::Crash(_) => 20,
        Action::NextEpoch => 30,
        Action::Delay(_) | Action::Double(_) => 6,
        Action::Tick(_) | Action::Flush(_) | Action::DeliverLate(_) => 3,
        _ => 1,
    };
    dice.below(one_in) == 0
}

fn run(seed: u64) -> (World, usize) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let rules = rules(&mut dice);
    let disks = vec![Store::new(0, 0, &[]); usize::from(NODES)];
    let mut world = rules.start(disks, 1, 0);
    let mut actions = Vec::new();
    let mut trace = Vec::new();
    for _ in 0..1500 {
        actions.clear();
        rules.actions(&world, &mut actions);
        if actions.is_empty() {
            break;
        }
        let action = actions.swap_remove(dice.below(actions.len() as u64) as usize);
        if is_taken(&world, &action, &mut dice) {
            world = rules.next(&world, &action);
            trace.push(action);
            assert_ok(seed, &world, &trace);
        }
    }
    let steps = trace.len();
    heal(seed, &rules, &mut world);
    (world, steps)
}

fn assert_ok(seed: u64, world: &World, trace: &[Action]) {
    if let Some(broken) = world.broken {
        for action in trace {
            println!("{action:?}");
        }
        panic!("seed {seed}: {broken:?} after {} steps", trace.len());
    }
}

/// A last epoch with everyone there and nothing going wrong: it has to come to rest, complete.
fn heal(seed: u64, rules: &Rules, world: &mut World) {
    let mut rules = rules.clone();
    rules.epochs.truncate(usize::from(world.epochs));
    let (_, replicas) = rules.epochs[rules.epochs.len() - 1].clone();
    let last = (replicas[0], replicas.clone());
    rules.epochs.push(last.clone());
    *world = rules.next(world, &Action::NextEpoch);
    rules.crashes = 0;
    for round in 0.. {
        assert!(round < 100, "seed {seed}: never at rest");
        *world = rules.settle(world.clone());
        assert_ok(seed, world, &[]);
        let wanting = (0..NODES).find(|me| world.machine(*me).replica.wants_tick());
        let Some(me) = wanting else { break };
        if matches!(world.machine(me).replica.role(), Role::Follower { .. }) {
            // It was restarted, and asks for an epoch that it cannot have led before.
            rules.epochs.push(last.clone());
            *world = rules.next(world, &Action::NextEpoch);
        } else {
            *world = rules.next(world, &Action::Tick(me));
        }
    }
    assert!(world.serves(), "seed {seed}: nobody serves");
    assert!(
        !world.has_suspects_among(&replicas),
        "seed {seed}: still suspect"
    );
    let leader = world.machine(replicas[0]);
    for me in replicas {
        let machine = world.machine(me);
        let same = machine.store.holds_the_same(&leader.store);
        assert!(same, "seed {seed}: node {me} differs");
        assert_eq!(
            machine.replica.commit(),
            leader.replica.last().index,
            "seed {seed}: node {me}"
        );
    }
}

#[test]
fn whatever_happens_it_comes_to_rest_complete() {
    let mut committed = 0;
    let mut truncations = 0;
    for seed in 0..SEEDS {
        let (world, _) = run(seed);
        committed += world.committed_batches();
        truncations += usize::from(world.truncated);
    }
    println!("{committed} batches committed, a suffix truncated in {truncations} of {SEEDS} runs");
    assert!(committed > 10 * SEEDS as usize, "the runs do too little");
    assert!(
        truncations * 10 > SEEDS as usize,
        "too few runs have conflicts"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let ((one, steps), (other, again)) = (run(seed), run(seed));
        assert_eq!(steps, again, "seed {seed}");
        assert!(one == other, "seed {seed}");
    }
}
