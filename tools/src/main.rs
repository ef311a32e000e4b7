//! `twinlun`: administers storage units, demonstrates and loads them. stdout carries data, stderr messages and progress.

#![forbid(unsafe_code)]

mod cli;
mod demo;
mod follow;
mod offline;
mod secret;
mod show;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use twinlun_api::{Problem, ProblemKind};

use crate::cli::{Cli, Command, Output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("twinlun: {problem}");
            ExitCode::from(problem.kind.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Problem> {
    match &cli.command {
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "twinlun", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), folder).map_err(failed),
        Command::Load(args) => load(cli, args),
        Command::Offline(command) => offline::run(command),
        Command::Demo(args) => block_on(demo::run(args)),
        _ => block_on(verbs::run(cli)),
    }
}

fn load(cli: &Cli, args: &twinlun::load::LoadArgs) -> Result<(), Problem> {
    let report = twinlun::load::measure(args).map_err(|error| failed(std::io::Error::other(error)))?;
    match cli.output {
        Output::Table => show::emit(report.to_string().trim_end()),
        Output::Json => {
            let versioned = twinlun_api::Versioned::new(report);
            show::emit(&serde_json::to_string_pretty(&versioned).map_err(|error| failed(error.into()))?);
        }
    }
    Ok(())
}

fn block_on(work: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: std::io::Error) -> Problem {
    Problem::new(ProblemKind::Failed, "E-CLIENT", error.to_string(), "")
}
