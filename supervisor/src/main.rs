#![forbid(unsafe_code)]
//! The program `sipbox`.

mod accept;
mod ancillary;
mod attempt;
mod call;
mod certificate;
mod cli;
mod connect;
mod datagram;
mod deaths;
mod dns;
mod doorbell;
mod entry;
mod flow;
mod former;
mod guard;
mod held_back;
mod homes;
mod hub;
mod identity;
mod inbound;
mod inherited;
mod interfaces;
mod json;
mod ladder;
mod message;
mod names;
mod netcheck;
mod netlink;
mod nobody;
mod options;
mod own;
mod parking;
mod peers;
mod ping;
mod progress;
mod published;
mod receive;
mod registrar;
mod resolver;
mod run;
mod say;
mod send;
mod serve;
mod sessions;
mod status;
mod stub;
mod supervisor;
mod table;
mod unix;
mod users;

use clap::Parser;

fn main() {
    let status = match cli::Cli::parse().command {
        cli::Command::Run(arguments) => {
            log();
            run::run(arguments)
        }
        cli::Command::Hub(arguments) => {
            log();
            serve_hub(arguments)
        }
        cli::Command::Peers(arguments) => {
            log();
            peers::run(arguments)
        }
        cli::Command::Netcheck(arguments) => netcheck::run(arguments).unwrap_or_else(|why| {
            say::line(&why);
            2
        }),
        cli::Command::Ping(arguments) => {
            log();
            ping::run(arguments)
        }
        cli::Command::Status(arguments) => status::run(&arguments).unwrap_or_else(|why| {
            say::line(&why);
            2
        }),
        cli::Command::Doctor => {
            let report = sandbox::doctor::run();
            println!("{report}");
            i32::from(!report.fit())
        }
    };
    std::process::exit(status);
}

/// Events go to stderr; SIPBOX_LOG chooses which (by default, warnings; what the STUN and TURN libraries call errors is part of every search,
/// and malformed datagrams are not worth a line each).
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SIPBOX_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(
            "warn,quinn_udp=error,stun_proto=off,turn_client_proto=off,stun_types=off,turn_types=off",
        )
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| say::Events)
        .with_ansi(false)
        .log_internal_errors(false)
        .init();
}

fn serve_hub(arguments: cli::HubArguments) -> i32 {
    if let Some(cli::HubCommand::User { users, command }) = arguments.command {
        return said(users::command(users, command));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            crate::say::hub(&format!("{e}"));
            return 1;
        }
    };
    let outcome = runtime
        .block_on(async { if arguments.auto { hub::serve_user().await } else { serve::serve(arguments).await } });
    said(outcome)
}

/// The exit status of a command of the hub; why it failed is said.
fn said(outcome: Result<(), String>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(why) => {
            crate::say::hub(&why);
            1
        }
    }
}
