//! What is checked before ranks are started: GPUs, and that other hosts answer and have the rank's program.

use std::process::Command;
use std::time::Duration;

use super::host_list::Host;
use super::plan::{Plan, quoted};
use super::programs::Programs;
use super::{gpus, process};
use crate::exit::Lacking;

/// Time that a host has to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// What the question to a host ends with when it answers and has no rank program.
const NO_PROGRAM: i32 = 41;

/// Checks what can be checked before ranks are started.
///
/// # Errors
/// [`Lacking`], with the fix, for fewer GPUs than ranks, hosts that do not answer, or that lack the program.
pub fn check(plan: &Plan, programs: &Programs) -> anyhow::Result<()> {
    if let (Some(wanted), Some(found)) = (plan.gpus, gpus::here(programs)) {
        gpus::require("this host", found, wanted)?;
    }
    if plan.hosts.is_empty() {
        return Ok(());
    }
    let (shell, program) = (programs.remote_shell(), quoted(&plan.rank_program.display().to_string()));
    let question = format!("test -x {program} || exit {NO_PROGRAM}; ls -d /dev/nvidia[0-9]* 2>/dev/null | wc -l");
    let answers: Vec<anyhow::Result<String>> = std::thread::scope(|scope| {
        let asked = plan.hosts.iter().map(|host| scope.spawn(|| answer(&shell, host, &question, &program)));
        let asked: Vec<_> = asked.collect();
        let failed = |_| Err(Lacking("a thread that asks a host ended".to_owned()).into());
        asked.into_iter().map(|one| one.join().unwrap_or_else(failed)).collect()
    });
    for (host, answer) in plan.hosts.iter().zip(answers) {
        let found = answer?.trim().parse().unwrap_or(0);
        if plan.gpus.is_some() {
            gpus::require(&host.name, (found, "/dev/nvidia*"), host.slots)?;
        }
    }
    Ok(())
}

/// What a host prints in answer to the question.
fn answer(shell: &[String], host: &Host, question: &str, program: &str) -> anyhow::Result<String> {
    let Some((first, rest)) = shell.split_first() else {
        return Err(Lacking("BLIP2_RSH is empty; expected a command such as ssh".to_owned()).into());
    };
    let asked = format!("{} {} …", shell.join(" "), host.name);
    let fix = "check the name and that this command works without a password, or leave the host out of --hosts; \
               BLIP2_RSH names another command than ssh";
    let silent = |what: String| Lacking(format!("{}: {what}; expected an answer to `{asked}`; {fix}", host.name));
    let mut command = Command::new(first);
    command.args(rest).arg(&host.name).arg(question);
    let output = process::output_within(&mut command, ANSWER)
        .map_err(|error| silent(format!("{first} cannot be started ({error})")))?
        .ok_or_else(|| silent(format!("the host did not answer within {} s", ANSWER.as_secs())))?;
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(NO_PROGRAM) => Err(Lacking(format!(
            "{}: the host answers and has no program {program}; expected it at the same path on every host. Put the package \
             into a folder that all hosts share, or unpack it there",
            host.name
        ))
        .into()),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
            Err(silent(format!("the host does not answer ({}: {last})", output.status)).into())
        }
    }
}
