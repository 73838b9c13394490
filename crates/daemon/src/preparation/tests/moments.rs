//! What is left when a preparation ends at any moment: cancelled, failed, or killed with its daemon

use std::sync::mpsc;

use super::super::inside::Inside;
use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

fn order(node: &Node, is_static: bool) -> Assignment {
    let mut start = start(node);
    start.static_instance = is_static;
    Assignment::read(&start).unwrap()
}

fn live(node: &Node) -> PathBuf {
    node.folder.path().join("instances/lobby/lobby-1")
}

/// A static instance with a world
fn settle(node: &Node) {
    std::fs::create_dir_all(live(node).join("config")).unwrap();
    for (name, content) in [
        ("world", "precious"),
        ("config/a.yml", "a: 1\n"),
        ("server.jar", "old"),
    ] {
        std::fs::write(live(node).join(name), content).unwrap();
    }
}

/// Every file below a folder, with its content
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            if path.is_dir() {
                folders.push(path);
                files.push((name, String::new()));
            } else {
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// What preparations do in a workspace, step by step
fn steps() -> [fn(&Workspace, &Inside); 6] {
    [
        |_, _| {},
        |workspace, _| {
            let scratch = workspace.scratch("files").unwrap();
            std::fs::write(scratch.join("0"), "new jar").unwrap();
            std::fs::write(scratch.join(".partial-x"), "half").unwrap();
        },
        |_, inside| {
            let place = |name| inside.resolve(name).unwrap();
            let ahead = vec![place("config/a.yml"), place("plugins/deep/b.yml")];
            inside.remember_ahead(ahead, vec![place("plugins")]).unwrap();
        },
        |_, inside| {
            inside
                .make_folder(&inside.resolve("plugins/deep").unwrap())
                .unwrap();
            for name in ["config.yml", "plugins/deep/b.yml"] {
                inside.replace(&inside.resolve(name).unwrap(), b"new").unwrap();
            }
        },
        |workspace, inside| {
            let scratch = Inside::new(&workspace.scratch("files").unwrap()).unwrap();
            let (to, from) = (
                inside.resolve("server.jar").unwrap(),
                scratch.resolve("0").unwrap(),
            );
            inside.take_over(&to, &scratch, &from).unwrap();
        },
        |_, inside| {
            inside
                .link(&inside.resolve_entry("latest").unwrap(), "config".as_ref())
                .unwrap();
        },
    ]
}

fn do_steps(workspace: &Workspace, last: usize) {
    let inside = workspace.inside().unwrap();
    for step in steps().iter().take(last + 1) {
        step(workspace, &inside);
    }
}

/// The daemon is there no more, and another one starts
fn start_again(node: &Node) -> Preparer {
    Preparer::new(node.preparer.settings.clone()).unwrap()
}

#[tokio::test]
async fn a_daemon_killed_at_any_step_leaves_nothing() {
    for (last, is_static) in (0..steps().len()).flat_map(|last| [(last, false), (last, true)]) {
        let node = node();
        settle(&node);
        let before = files(&live(&node));
        let mut preparing = node
            .preparer
            .workspaces
            .open(&order(&node, is_static))
            .await
            .unwrap();
        let work = move |workspace: &Workspace| {
            do_steps(workspace, last);
            Ok(())
        };
        preparing.work(work).await.unwrap();
        // Nothing of it runs any more.
        std::mem::forget(preparing);
        start_again(&node);
        assert_eq!(
            leftovers(&node),
            Vec::<PathBuf>::new(),
            "step {last}, {is_static}"
        );
        assert_eq!(files(&live(&node)), before, "step {last}, {is_static}");
        let group = std::fs::read_dir(live(&node).parent().unwrap()).unwrap();
        assert_eq!(group.count(), 1);
    }
}

#[tokio::test]
async fn a_daemon_killed_while_a_folder_takes_its_place_leaves_one_or_none() {
    let node = node();
    let beside = |name: &str| live(&node).with_file_name(name);
    // Between the two renames.
    for name in [".lobby-1-replaced-1-1", ".lobby-1-staging-1-1"] {
        std::fs::create_dir_all(beside(name)).unwrap();
    }
    let preparer = start_again(&node);
    await_clean(&node);
    assert!(!live(&node).exists());
    let start = start(&node);
    preparer.prepare(&start, Limits::of(&start), None).await.unwrap();
    // After them.
    std::fs::create_dir_all(beside(".lobby-1-replaced-1-1")).unwrap();
    start_again(&node);
    assert_eq!(files(&live(&node)), [("server.jar".to_owned(), "jar".to_owned())]);
    assert!(!beside(".lobby-1-replaced-1-1").exists());
}

#[tokio::test]
async fn a_daemon_killed_behind_the_end_of_a_preparation_keeps_what_is_new() {
    let node = node();
    settle(&node);
    let mut start = start(&node);
    start.static_instance = true;
    node.preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap();
    let before = files(&live(&node));
    // Killed before this was deleted.
    let undone = live(&node).with_file_name(".lobby-1-undone-1-1");
    std::fs::create_dir_all(&undone).unwrap();
    std::fs::write(undone.join("0"), "old").unwrap();
    start_again(&node);
    assert!(!undone.exists());
    assert_eq!(files(&live(&node)), before);
    assert_eq!(
        std::fs::read_to_string(live(&node).join("server.jar")).unwrap(),
        "jar"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preparation_cancelled_inside_of_file_work_is_undone_before_the_next_one_begins() {
    for is_static in [true, false] {
        let node = node();
        settle(&node);
        let order = order(&node, is_static);
        let before = files(&live(&node));
        let (began, begun) = tokio::sync::oneshot::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let mut cancelled = node.preparer.workspaces.open(&order).await.unwrap();
        let preparing = async {
            let work = cancelled.work(move |workspace| {
                do_steps(workspace, 2);
                began.send(()).unwrap();
                may_go_on.recv_timeout(DEADLINE).unwrap();
                do_steps(workspace, 3);
                Ok(())
            });
            work.await.unwrap();
        };
        tokio::select! {
            () = preparing => panic!("it waits"),
            begun = begun => begun.unwrap(),
        }
        drop(cancelled);
        let next = node.preparer.workspaces.open(&order);
        let mut next = std::pin::pin!(next);
        // Others need not wait, and it has to.
        let mut other = start(&node);
        other.instance_id = "lobby-2".into();
        tokio::select! {
            biased;
            next = &mut next => panic!("the other one is at work: {next:?}"),
            prepared = node.preparer.prepare(&other, Limits::of(&other), None) => drop(prepared.unwrap()),
        }
        assert_ne!(leftovers(&node), Vec::<PathBuf>::new());
        go_on.send(()).unwrap();
        let next = tokio::time::timeout(DEADLINE, next).await.unwrap().unwrap();
        assert_eq!(
            files(&live(&node)),
            before,
            "as it was, before anything is done in it"
        );
        let others: Vec<PathBuf> = leftovers(&node);
        assert_eq!(others.len(), usize::from(!is_static), "{others:?}");
        next.give_up().await;
        await_clean(&node);
    }
}

#[tokio::test]
async fn a_preparation_that_does_not_end_is_told() {
    let mut node = node();
    node.preparer.workspaces.be_patient_for(Duration::from_millis(20));
    let start = start(&node);
    let stuck = node.preparer.workspaces.open(&order(&node, false)).await.unwrap();
    let error = node
        .preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.stage()),
        ("PREPARATION_BUSY", StartPreparationStage::Validation)
    );
    assert_eq!(error.disposition(), StartFailureDisposition::Transient);
    assert_ne!(error.retry_after(), Duration::ZERO);
    assert!(error.to_string().contains("lobby-1"), "{error}");
    stuck.give_up().await;
    node.preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_is_started_before_a_failed_start_is_undone() {
    let node = node();
    settle(&node);
    let mut preparing = node.preparer.workspaces.open(&order(&node, true)).await.unwrap();
    let work = |workspace: &Workspace| {
        do_steps(workspace, 4);
        Ok(())
    };
    preparing.work(work).await.unwrap();
    // Somebody's folder in the place of a file that was replaced.
    let in_the_way = live(&node).join("server.jar");
    std::fs::remove_file(&in_the_way).unwrap();
    std::fs::create_dir(&in_the_way).unwrap();
    preparing.give_up().await;
    let pending = live(&node).with_file_name(".lobby-1-undo");
    for is_static in [true, false] {
        let mut start = start(&node);
        start.static_instance = is_static;
        let error = node.preparer.prepare(&start, Limits::of(&start), None).await;
        let error = error.unwrap_err();
        assert_eq!(
            (error.code(), error.stage()),
            ("ROLLBACK_FAILED", StartPreparationStage::Validation)
        );
        assert_eq!(error.disposition(), StartFailureDisposition::Transient);
        assert_eq!(error.retry_after(), Duration::from_secs(5));
        for words in ["server.jar", pending.to_str().unwrap()] {
            assert!(error.to_string().contains(words), "{error}");
        }
        start_again(&node);
        assert!(pending.exists(), "a daemon that starts does not pass it by");
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    let mut start = start(&node);
    start.static_instance = true;
    node.preparer
        .prepare(&start, Limits::of(&start), None)
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(&in_the_way).unwrap(), "jar");
    assert!(!live(&node).join("plugins").exists() && !pending.exists());
    // What has succeeded is undone by no older list.
    let before = files(&live(&node));
    start_again(&node);
    assert_eq!(files(&live(&node)), before);
}

#[tokio::test]
async fn what_cannot_take_its_place_is_put_aside_and_told() {
    let node = node();
    settle(&node);
    let before = files(&live(&node));
    let start = start(&node);
    // The name that the former folder would get is taken.
    let taken = format!(".lobby-1-replaced-{}-1/x", std::process::id());
    std::fs::create_dir_all(live(&node).with_file_name(taken)).unwrap();
    let prepared = node.preparer.prepare(&start, Limits::of(&start), None).await;
    let error = prepared.unwrap_err();
    assert_eq!(
        (error.code(), error.stage()),
        ("START_FAILED", StartPreparationStage::ProcessStart)
    );
    assert_eq!(error.disposition(), StartFailureDisposition::Transient);
    let PreparationError::Promotion { kept, .. } = &error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains(kept.to_str().unwrap()), "{error}");
    assert!(
        kept.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("lobby-1@failed-")
    );
    assert_eq!(files(kept), [("server.jar".to_owned(), "jar".to_owned())]);
    assert_eq!(files(&live(&node)), before);
    await_clean(&node);
    start_again(&node);
    assert!(kept.exists(), "for a week");
}

#[test]
fn a_folder_that_nobody_waits_for_any_more_goes() {
    let node = node();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let order = order(&node, false);
        let preparing = node.preparer.workspaces.open(&order).await.unwrap();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || {
            may_go_on.recv_timeout(DEADLINE)
        }));
        {
            let mut promoting = std::pin::pin!(preparing.promote());
            std::future::poll_fn(|context| {
                assert!(promoting.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        go_on.send(()).unwrap();
        // Whose turn it is next finds nothing.
        let next = node.preparer.workspaces.open(&order).await.unwrap();
        assert!(!live(&node).exists());
        next.give_up().await;
        await_clean(&node);
    });
}
