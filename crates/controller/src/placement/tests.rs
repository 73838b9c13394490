use proptest::prelude::*;

use super::*;

fn wish() -> Wish<'static> {
    Wish {
        memory_mb: 1024,
        cpu: 0.0,
        disk_mb: 0,
        affinity: &[],
        anti_affinity: &[],
        ports: 100,
    }
}

fn node(name: &str) -> Candidate {
    Candidate {
        node: name.parse().unwrap(),
        status: NodeSummary::Online,
        labels: HashMap::new(),
        total_memory_mb: 8192,
        used_memory_mb: 0,
        cpu: Some(0.1),
        free_disk_mb: 10_000,
        booked: Booked::default(),
    }
}

fn booked(instances: usize, of_group: usize, memory_mb: i64) -> Booked {
    Booked {
        instances,
        of_group,
        memory_mb,
        cpu_millionths: 0,
    }
}

fn names(ranked: Result<Vec<NodeId>, NoPlace>) -> Vec<String> {
    ranked.unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn the_emptier_node_is_better_and_equal_ones_are_in_the_order_of_their_names() {
    let full = Candidate {
        booked: booked(3, 0, 3072),
        ..node("a")
    };
    assert_eq!(
        names(rank(&wish(), &[full, node("c"), node("b")])),
        ["b", "c", "a"]
    );
}

#[test]
fn servers_of_a_group_are_spread() {
    let sisters = Candidate {
        booked: booked(2, 2, 2048),
        ..node("a")
    };
    let strangers = Candidate {
        booked: booked(2, 0, 2048),
        ..node("b")
    };
    assert_eq!(names(rank(&wish(), &[sisters, strangers])), ["b", "a"]);
}

#[test]
fn memory_is_booked_before_it_is_used() {
    let promised = Candidate {
        booked: booked(7, 0, 7169),
        ..node("a")
    };
    let fuller = Candidate {
        booked: booked(8, 0, 8000),
        ..node("b")
    };
    let exact = Candidate {
        booked: booked(7, 0, 7168),
        ..node("c")
    };
    assert_eq!(
        names(rank(&wish(), &[promised.clone(), fuller.clone(), exact])),
        ["c"]
    );
    assert_eq!(
        rank(&wish(), &[promised, fuller]),
        Err(NoPlace::Full(
            "no node has room: 1023 of 1024 MiB are left on a, and less on another node. Stop something, ask for less, or add a node"
                .to_owned()
        ))
    );
}

#[test]
fn what_is_used_makes_a_node_worse_and_keeps_nobody_away() {
    let used = Candidate {
        used_memory_mb: 8_192,
        ..node("a")
    };
    assert_eq!(names(rank(&wish(), &[used.clone(), node("b")])), ["b", "a"]);
    let mut last = used;
    last.booked = booked(7, 0, 7_168);
    assert_eq!(names(rank(&wish(), &[last])), ["a"], "a server comes back to it");
}

#[test]
fn more_than_all_processors_but_a_few_is_never_there() {
    let all = Wish { cpu: 1.0, ..wish() };
    assert!(matches!(rank(&all, &[node("a")]), Err(NoPlace::Never(why)) if why.contains("cpuReservation")));
}

#[test]
fn a_node_that_says_nothing_is_asked() {
    let silent = Candidate {
        total_memory_mb: 0,
        cpu: None,
        free_disk_mb: 0,
        ..node("a")
    };
    let heavy = Wish {
        memory_mb: 1 << 40,
        cpu: 0.4,
        disk_mb: 1 << 40,
        ..wish()
    };
    assert_eq!(names(rank(&heavy, &[silent])), ["a"]);
}

#[test]
fn a_reservation_of_processors_leaves_something_and_none_is_for_free() {
    let busy = Candidate {
        cpu: Some(1.0),
        ..node("a")
    };
    assert_eq!(names(rank(&wish(), std::slice::from_ref(&busy))), ["a"]);
    let asks = |cpu| Wish { cpu, ..wish() };
    let Err(NoPlace::Full(why)) = rank(&asks(0.5), &[busy]) else {
        panic!("it has no processors left")
    };
    assert!(why.contains("0 % of the processors are left on a"), "{why}");
    let promised = |cpu_millionths| Candidate {
        booked: Booked {
            cpu_millionths,
            ..Booked::default()
        },
        ..node("b")
    };
    assert!(rank(&asks(0.5), &[promised(440_000)]).is_ok());
    assert!(rank(&asks(0.5), &[promised(460_000)]).is_err());
}

#[test]
fn what_no_node_can_ever_have_is_told_from_what_does_not_fit_now() {
    let large = Wish {
        memory_mb: 9000,
        ..wish()
    };
    assert!(matches!(rank(&large, &[node("a")]), Err(NoPlace::Never(why))
        if why.starts_with("9000 MiB of memory are more than any node that is ready has: the largest, a, has 8192 MiB")));
    let affinity = ["zone=eu".to_owned()];
    let abroad = Wish {
        affinity: &affinity,
        ..wish()
    };
    assert!(matches!(rank(&abroad, &[node("a")]), Err(NoPlace::Never(why)) if why.contains("labels")));
    let disk = Wish {
        disk_mb: 20_000,
        ..wish()
    };
    assert!(matches!(rank(&disk, &[node("a")]), Err(NoPlace::Full(why))
        if why.contains("10000 of 20000 MiB of disk are left on a")));
}

#[test]
fn nodes_that_are_not_ready_are_named_with_what_they_are() {
    let away = |name, status| Candidate { status, ..node(name) };
    let nodes = [
        away("a", NodeSummary::Offline),
        away("b", NodeSummary::Cordoned),
        away("c", NodeSummary::Draining),
        away("d", NodeSummary::Offline),
    ];
    assert_eq!(
        rank(&wish(), &nodes).unwrap_err().to_string(),
        "no node is ready: a is OFFLINE, b is CORDONED, c is DRAINING, and 1 others"
    );
    assert!(
        rank(&wish(), &[])
            .unwrap_err()
            .to_string()
            .starts_with("no node is ready")
    );
}

prop_compose! {
    fn any_node()(
        at in 0..20_u8,
        is_online in any::<bool>(),
        is_labelled in any::<bool>(),
        total_memory_mb in prop_oneof![Just(0), 0..16_384_i64, any::<i64>()],
        used_memory_mb in prop_oneof![0..16_384_i64, any::<i64>()],
        cpu in prop_oneof![Just(None), (0.0..=1.0).prop_map(Some), any::<f64>().prop_map(Some)],
        free_disk_mb in prop_oneof![0..16_384_i64, any::<i64>()],
        (instances, of_group, memory_mb, cpu_millionths) in (0..9_usize, 0..9_usize, 0..16_384_i64, 0..2_000_000_i64),
    ) -> Candidate {
        Candidate {
            status: if is_online { NodeSummary::Online } else { NodeSummary::Offline },
            labels: is_labelled.then(|| ("zone".to_owned(), "eu".to_owned())).into_iter().collect(),
            total_memory_mb,
            used_memory_mb,
            cpu,
            free_disk_mb,
            booked: Booked { instances, of_group, memory_mb, cpu_millionths },
            ..node(&format!("node-{at}"))
        }
    }
}

proptest! {
    #[test]
    fn whoever_is_chosen_has_room_and_whoever_is_not_has_none(
        nodes in proptest::collection::vec(any_node(), 0..8),
        memory_mb in 1..8_192_i64,
        cpu in 0.0..1.0,
        is_labelled in any::<bool>(),
    ) {
        let affinity: Vec<String> = is_labelled.then(|| "zone=eu".to_owned()).into_iter().collect();
        let wish = Wish { memory_mb, cpu, affinity: &affinity, ..wish() };
        let ranked = rank(&wish, &nodes);
        for one in &nodes {
            let total = one.total_memory_mb;
            let fits = one.status == NodeSummary::Online
                && (affinity.is_empty() || !one.labels.is_empty())
                && (total <= 0 || (i128::from(one.booked.memory_mb) + i128::from(memory_mb) <= i128::from(total)))
                && (cpu == 0.0 || one.idle_cpu(0.0) >= cpu + CPU_LEFT_ALONE);
            let is_ranked = ranked.as_ref().is_ok_and(|ranked| ranked.contains(&one.node));
            let twins = nodes.iter().filter(|other| other.node == one.node).count();
            if twins == 1 {
                prop_assert_eq!(fits, is_ranked, "{:?}", one);
            }
        }
        if let Err(why) = ranked {
            prop_assert!(!why.to_string().is_empty());
        }
    }
}
