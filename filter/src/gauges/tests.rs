use super::*;
use crate::roster::SILENCE;
use router_core::Slot;
use router_core::cost::CostWeights;
use router_core::hash::BlockLayout;
use router_core::levels::Levels;
use std::cell::RefCell;

/// A process: gauges and shared data, as Envoy has them.
#[derive(Debug, Default)]
struct Fake {
    data: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    gauges: RefCell<Vec<(String, u64)>>,
}

impl Shared for &Fake {
    fn read(&self, key: &str) -> (Option<Vec<u8>>, Option<u32>) {
        let data = self.data.borrow();
        let found = data.get(key);
        (found.map(|found| found.0.clone()), found.map(|found| found.1))
    }

    fn write(&self, key: &str, value: &[u8], version: Option<u32>) -> bool {
        let mut data = self.data.borrow_mut();
        let current = data.get(key).map(|found| found.1);
        if version.is_some() && version != current {
            return false;
        }
        let next = current.unwrap_or(0) + 1;
        data.insert(key.to_owned(), (value.to_vec(), next));
        true
    }

    fn gauge(&self, name: &str) -> Option<MetricId> {
        let mut gauges = self.gauges.borrow_mut();
        let place = gauges.iter().position(|(known, _)| known == name);
        let place = place.unwrap_or_else(|| {
            gauges.push((name.to_owned(), 0));
            gauges.len() - 1
        });
        MetricId::try_from(place).ok()
    }

    fn value(&self, gauge: MetricId) -> u64 {
        self.gauges.borrow()[gauge as usize].1
    }

    fn add(&self, gauge: MetricId, amount: i64) {
        let value = &mut self.gauges.borrow_mut()[gauge as usize].1;
        *value = value.wrapping_add_signed(amount);
    }
}

fn pool(workers: u16) -> Pool {
    let candidate = |number| Candidate {
        slot: Slot(number),
        endpoint: format!("10.0.0.{number}:8000"),
        dp_rank: None,
        instance_id: None,
    };
    Pool {
        name: "p".to_owned(),
        epoch: 1,
        models: Vec::new(),
        layout: BlockLayout::plain(16).expect("positive"),
        levels: Levels::default(),
        tokenizer: None,
        template: None,
        kv_events: true,
        stride: std::num::NonZeroU32::MIN,
        weights: CostWeights::default(),
        temperature: 0.0,
        inject_tokens: false,
        candidates: (0..workers).map(candidate).collect(),
    }
}

/// A VM that has its seat.
fn vm(process: &Fake, id: u64, now: u64) -> SharedLoad<&Fake> {
    let mut load = SharedLoad::new(process, VmId(id));
    load.bind([pool(2)].iter());
    load.sign(Millis(now));
    assert_eq!(load.number(), None);
    load.sign(Millis(now));
    assert!(load.number().is_some());
    load
}

fn booked(requests: i64) -> LoadDelta {
    LoadDelta {
        prefill_tokens: 100 * requests,
        decode_blocks: 7 * requests,
        requests,
    }
}

fn load(requests: u64) -> SlotLoad {
    SlotLoad {
        prefill_tokens: 100 * requests,
        decode_blocks: 7 * requests,
        requests,
    }
}

fn add(vm: &mut SharedLoad<&Fake>, candidate: usize, requests: i64) {
    let account = vm.of("p", candidate).expect("bound");
    vm.add(&account, booked(requests));
}

#[test]
fn bookings_count_in_all_vms_at_once() {
    let process = Fake::default();
    let (mut a, mut b) = (vm(&process, 1, 0), vm(&process, 2, 0));
    add(&mut a, 0, 2);
    add(&mut b, 0, 3);
    add(&mut b, 1, 1);
    assert_eq!(
        [a.loads("p"), b.loads("p")],
        [vec![load(5), load(1)], vec![load(5), load(1)]]
    );
}

#[test]
fn what_a_dead_vm_booked_is_cleared_once() {
    let process = Fake::default();
    let (mut dead, mut a, mut b) = (vm(&process, 1, 0), vm(&process, 2, 0), vm(&process, 3, 0));
    add(&mut dead, 0, 4);
    add(&mut dead, 1, 1);
    add(&mut dead, 1, -1);
    add(&mut a, 0, 1);
    dead.report_vm(VmStatus {
        alive: true,
        connected: true,
        ready: false,
    });
    let mut memory = VmMemory {
        vm: 30,
        views: 20,
        prompts: 10,
    };
    for vm in [&mut dead, &mut a] {
        vm.report_memory(memory);
    }
    memory.vm = 40;
    a.report_memory(memory);
    let memory = || {
        let gauges = process.gauges.borrow();
        let value = |field: &str| gauges.iter().find(|(name, _)| *name == format!("{MEMORY}.{field}"));
        MEMORY_FIELDS.map(|field| value(field).map(|(_, value)| *value))
    };
    assert_eq!(memory(), [70, 40, 20].map(Some));
    drop(dead);
    for now in (1_000..=SILENCE).step_by(1_000) {
        a.sign(Millis(now));
        b.sign(Millis(now));
    }
    assert_eq!(a.loads("p"), [load(5), load(0)]);
    let later = Millis(SILENCE + 1_000);
    assert_eq!([a.sign(later).cleared, b.sign(later).cleared], [1, 0]);
    assert_eq!(a.loads("p"), [load(1), load(0)]);
    let vms = process
        .gauges
        .borrow()
        .iter()
        .filter(|(name, _)| name.starts_with(VMS))
        .map(|(_, value)| *value)
        .sum::<u64>();
    assert_eq!(vms, 0);
    assert_eq!(memory(), [40, 20, 10].map(Some));
    // The number is free again, and what was recorded under it is not held against its next owner.
    let next = vm(&process, 4, later.0);
    assert_eq!(next.number(), Some(0));
    drop(next);
    assert_eq!(a.loads("p"), [load(1), load(0)]);
}

#[test]
fn workers_that_went_are_forgotten_once_nothing_is_booked_on_them() {
    let process = Fake::default();
    let mut vm = vm(&process, 1, 0);
    let held = vm.of("p", 0).expect("bound");
    vm.add(&held, booked(1));
    for number in 0..100_u16 {
        let mut pool = pool(1);
        pool.candidates[0].endpoint = format!("10.0.1.{number}:8000");
        vm.bind([pool].iter());
        add(&mut vm, 0, 2);
        add(&mut vm, 0, -2);
    }
    let list = read_list(&vm.shared, 0);
    let keys = ["warmpath.load.p.10.0.0.0:8000.0", "warmpath.load.p.10.0.1.99:8000.0"];
    assert_eq!(list, keys.map(str::to_owned).into());
    // What is still booked on a worker that went is cleared with the VM.
    let mut other = SharedLoad::new(&process, VmId(2));
    other.sign(Millis(SILENCE + 1));
    other.bind([pool(1)].iter());
    assert_eq!(other.loads("p"), [load(0)]);
}

#[test]
fn a_vm_that_was_only_slow_books_its_own_again() {
    let process = Fake::default();
    let (mut slow, mut other) = (vm(&process, 1, 0), vm(&process, 2, 0));
    add(&mut slow, 0, 2);
    other.sign(Millis(SILENCE - 1));
    assert_eq!(other.sign(Millis(SILENCE + 1_000)).cleared, 1);
    assert_eq!(other.loads("p"), [load(0), load(0)]);
    slow.sign(Millis(SILENCE + 2_000));
    assert_eq!(other.loads("p"), [load(2), load(0)]);
    slow.sign(Millis(SILENCE + 2_000));
    add(&mut slow, 0, -2);
    assert_eq!(other.loads("p"), [load(0), load(0)]);
}

#[test]
fn gauges_below_zero_read_as_idle() {
    let process = Fake::default();
    let mut a = vm(&process, 1, 0);
    add(&mut a, 0, -1);
    assert_eq!(a.loads("p"), [load(0), load(0)]);
}

/// Random bookings, deaths, stalls and births: whenever all signs are given, the gauges are the sum of what the living
/// hold.
#[test]
fn gauges_are_the_sum_of_the_living() {
    let mut random = crate::random::Random::new(42);
    for _ in 0..200 {
        let process = Fake::default();
        let mut now = 0;
        let mut next_id = 0;
        let mut living: Vec<(SharedLoad<&Fake>, [i64; 2])> = Vec::new();
        for _ in 0..60 {
            match random.draw() % 10 {
                0 | 1 if living.len() < 6 => {
                    next_id += 1;
                    living.push((vm(&process, next_id, now), [0, 0]));
                }
                2 if living.len() > 1 => drop(living.swap_remove(random.draw() as usize % living.len())),
                // Everybody stalls, and wakes up in some order.
                3 => now += SILENCE + 1,
                _ => {
                    let count = living.len().max(1);
                    if let Some((vm, held)) = living.get_mut(random.draw() as usize % count) {
                        let candidate = random.draw() as usize % 2;
                        let change = if held[candidate] > 0 && random.draw().is_multiple_of(2) {
                            -1
                        } else {
                            1
                        };
                        // As the filter does: a sign before every booking.
                        vm.sign(Millis(now));
                        add(vm, candidate, change);
                        held[candidate] += change;
                    }
                }
            }
            now += random.draw() % 1_500;
        }
        // Long enough for all the dead to be cleared, one in each sign.
        for _ in 0..60 {
            now += SIGN_EVERY;
            for (vm, _) in &mut living {
                vm.sign(Millis(now));
            }
        }
        let expected = |candidate: usize| {
            living
                .iter()
                .map(|(_, held)| held[candidate])
                .sum::<i64>()
                .unsigned_abs()
        };
        if let Some((vm, _)) = living.first() {
            assert_eq!(vm.loads("p"), [load(expected(0)), load(expected(1))]);
        }
    }
}
