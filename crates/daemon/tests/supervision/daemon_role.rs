//! A small daemon as a process of its own, to be killed
//!
//! It adopts what it finds, or starts the stand-in; it prints what it sees, and forwards what it reads as commands.

use std::ffi::OsString;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;

use prexorcloud_daemon::supervisor::{Event, Receiver, Supervisor};

use super::stage::{facts, settings, standin};

pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    let port: u16 = arguments.next().unwrap().to_str().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(serve(folder, port));
    ExitCode::SUCCESS
}

async fn serve(folder: PathBuf, port: u16) {
    let (supervisor, mut reports) = Supervisor::new(settings(&folder)).unwrap();
    let adopted = supervisor.adopt().await.unwrap();
    for instance in &adopted {
        println!(
            "adopted {:?} {} {}",
            instance.found, instance.is_running, instance.pid
        );
    }
    if adopted.is_empty() {
        let workspace = folder.join("workspace");
        std::fs::create_dir_all(&workspace).unwrap();
        supervisor
            .start(facts("lobby-1", port), standin(port, &workspace))
            .await
            .unwrap();
        println!("started");
    }
    supervisor.open_consoles(1, Receiver::Numbered);
    let commands = supervisor.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            commands.command("lobby-1".parse().unwrap(), &line).unwrap();
        }
    });
    loop {
        tokio::select! {
            event = reports.events.recv() => match event.unwrap() {
                Event::Ready { .. } => println!("ready"),
                Event::Waiting { .. } => {}
                Event::Stopping { .. } => println!("stopping"),
                Event::Exited(exit) => {
                    println!("exited {}", exit.cause.code());
                    assert!(supervisor.settle(exit.instance, exit.incarnation));
                }
                Event::Settled { .. } => println!("settled"),
            },
            batch = reports.consoles.recv() => {
                let batch = batch.unwrap();
                for line in &batch.lines {
                    println!("line {} {}", line.sequence, line.text);
                }
                let (instance, incarnation) = (batch.instance, batch.incarnation);
                let last = batch.lines.last().unwrap().sequence;
                batch.accept();
                supervisor.console_arrived(instance, incarnation, last);
            }
        }
    }
}
