//! What each verb sends.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use serde_json::{Value, json};
use twinlun::client::{Client, segment};
use twinlun_api::{Problem, ProblemKind};

use crate::cli::{
    Cli, Command, DiscoveryCommand, DiskCommand, EventCommand, HostCommand, LuCommand, MirrorCommand,
    PortalCommand, SessionCommand, Switch, UnitCommand,
};
use crate::follow;
use crate::secret::Secrets;
use crate::show;

/// Carries out a verb that talks to a storage processor.
pub(crate) async fn run(cli: &Cli) -> Result<(), Problem> {
    let client = Client::new(&cli.unit, cli.dry_run);
    let answer = match &cli.command {
        Command::Unit(UnitCommand::Show) => client.get("/v1/unit").await?,
        Command::Status => client.get("/v1/status").await?,
        Command::Disk(command) => disk(cli, &client, command).await?,
        Command::Lu(command) => lu(cli, &client, command).await?,
        Command::Host(command) => host(cli, &client, command).await?,
        Command::Discovery(command) => discovery(cli, &client, command).await?,
        Command::Portal(command) => portal(cli, &client, command).await?,
        Command::Mirror(MirrorCommand::Watch { name }) => {
            return follow::watch_mirror(cli, &client, name).await;
        }
        Command::Mirror(command) => mirror(cli, &client, command).await?,
        Command::Session(SessionCommand::List) => client.get("/v1/sessions").await?,
        Command::Session(SessionCommand::Drop { tsih }) => {
            confirm(cli, &format!("end session {tsih}"))?;
            client.delete(&format!("/v1/sessions/{tsih}")).await?
        }
        Command::Event(EventCommand::List { follow: false }) => client.get("/v1/events").await?,
        Command::Event(EventCommand::List { follow: true }) => return follow::events(cli, &client).await,
        Command::Demo(_)
        | Command::Load(_)
        | Command::Offline(_)
        | Command::Completion { .. }
        | Command::Man { .. } => {
            unreachable!("these verbs need no storage processor and are carried out by main")
        }
    };
    show::print(cli.output, &cli.command, &answer);
    Ok(())
}

async fn disk(cli: &Cli, client: &Client, command: &DiskCommand) -> Result<Value, Problem> {
    match command {
        DiskCommand::List => client.get("/v1/disks").await,
        DiskCommand::Add { path, size } => {
            client.post("/v1/disks", json!({"path": path, "size": size})).await
        }
        DiskCommand::Fail { slot } => {
            confirm(cli, &format!("stop using disk {slot}; LUs on it go on without redundancy"))?;
            client.post(&format!("/v1/disks/{}/fail", segment(slot)), json!({})).await
        }
        DiskCommand::Replace { slot, path, size } => {
            let body = json!({"path": path, "size": size});
            client.post(&format!("/v1/disks/{}/replace", segment(slot)), body).await
        }
    }
}

async fn lu(cli: &Cli, client: &Client, command: &LuCommand) -> Result<Value, Problem> {
    match command {
        LuCommand::Create {
            name,
            size,
            raid,
            disks,
            block_size,
            physical_block_size,
            thin,
            removable,
            read_only,
            write_cache,
        } => {
            let block_size: u32 = block_size.parse().expect("the definition allows only numbers");
            let body = json!({
                "name": name, "size": size, "raid": raid.as_str(), "disks": disks, "block_size": block_size,
                "thin": thin, "removable": removable, "read_only": read_only, "write_cache": *write_cache == Switch::On,
                "physical_block_size": physical_block_size.unwrap_or(block_size),
            });
            client.post("/v1/lus", body).await
        }
        LuCommand::List => client.get("/v1/lus").await,
        LuCommand::Show { name } => client.get(&format!("/v1/lus/{}", segment(name))).await,
        LuCommand::Delete { name } => {
            confirm(cli, &format!("remove LU {name} and all its data"))?;
            client.delete(&format!("/v1/lus/{}", segment(name))).await
        }
        LuCommand::Map { name, host, lun } => {
            client.post(&format!("/v1/lus/{}/map", segment(name)), json!({"host": host, "lun": lun})).await
        }
        LuCommand::Unmap { name, host } => {
            confirm(cli, &format!("hide LU {name} from {host}"))?;
            client.post(&format!("/v1/lus/{}/unmap", segment(name)), json!({"host": host})).await
        }
    }
}

async fn host(cli: &Cli, client: &Client, command: &HostCommand) -> Result<Value, Problem> {
    match command {
        HostCommand::Add {
            iqn,
            chap_user,
            secret_file,
            mutual_user,
            mutual_secret_file,
            generate,
            groups,
        } => {
            let mut secrets = Secrets::new(*generate, cli.dry_run);
            let chap = secrets.credentials(chap_user.as_deref(), secret_file.as_deref())?;
            let mutual = secrets.credentials(mutual_user.as_deref(), mutual_secret_file.as_deref())?;
            let body = json!({"iqn": iqn, "chap": chap, "mutual": mutual, "groups": groups});
            secrets.settle(client.post("/v1/hosts", body).await)
        }
        HostCommand::List => client.get("/v1/hosts").await,
        HostCommand::Remove { iqn } => {
            confirm(cli, &format!("forget host {iqn} and end its sessions"))?;
            client.delete(&format!("/v1/hosts/{}", segment(iqn))).await
        }
    }
}

async fn discovery(cli: &Cli, client: &Client, command: &DiscoveryCommand) -> Result<Value, Problem> {
    match command {
        DiscoveryCommand::Show => client.get("/v1/discovery").await,
        DiscoveryCommand::Set { chap_user, secret_file, mutual_user, mutual_secret_file, generate } => {
            let mut secrets = Secrets::new(*generate, cli.dry_run);
            let chap = secrets.credentials(Some(chap_user), Some(secret_file))?;
            let mutual = secrets.credentials(mutual_user.as_deref(), mutual_secret_file.as_deref())?;
            secrets.settle(client.post("/v1/discovery", json!({"chap": chap, "mutual": mutual})).await)
        }
        DiscoveryCommand::Clear => client.post("/v1/discovery", json!({})).await,
    }
}

async fn portal(cli: &Cli, client: &Client, command: &PortalCommand) -> Result<Value, Problem> {
    let order = |address: &str, verb: &str| format!("/v1/portals/{}/{verb}", segment(address));
    match command {
        PortalCommand::List => client.get("/v1/portals").await,
        PortalCommand::Drain { address, seconds } => {
            confirm(cli, &format!("send all hosts away from portal {address} within {seconds} s"))?;
            client.post(&order(address, "drain"), json!({"seconds": seconds})).await
        }
        PortalCommand::Resume { address } => client.post(&order(address, "resume"), json!({})).await,
        PortalCommand::Redirect { address, to, permanent, off: _ } => {
            client.post(&order(address, "redirect"), json!({"to": to, "permanent": permanent})).await
        }
    }
}

async fn mirror(cli: &Cli, client: &Client, command: &MirrorCommand) -> Result<Value, Problem> {
    let order = |name: &str, verb: &str| format!("/v1/mirrors/{}/{verb}", segment(name));
    match command {
        MirrorCommand::Create { name, lu, policy, attributes } => {
            let attributes: BTreeMap<_, _> = attributes.iter().cloned().collect();
            let body = json!({"name": name, "lus": lu, "policy": policy, "attributes": attributes});
            client.post("/v1/mirrors", body).await
        }
        MirrorCommand::AddSecondary { name, on, lu, synchronized } => {
            if *synchronized {
                confirm(
                    cli,
                    &format!("take the LUs on {on} for equal to the primary without comparing them"),
                )?;
            } else {
                confirm(cli, &format!("overwrite {} on {on} with the primary's data", lu.join(", ")))?;
            }
            let body = json!({"unit": on, "lus": lu, "synchronized": synchronized});
            client.post(&order(name, "add-secondary"), body).await
        }
        MirrorCommand::RemoveSecondary { image, force } => {
            confirm(cli, &format!("remove the image on {} from mirror {}", image.on, image.name))?;
            client
                .post(&order(&image.name, "remove-secondary"), json!({"unit": image.on, "force": force}))
                .await
        }
        MirrorCommand::Promote { name, force } => {
            confirm(cli, &format!("make this unit's image of {name} the primary"))?;
            client.post(&order(name, "promote"), json!({"force": force})).await
        }
        MirrorCommand::Sync { image, wait } => {
            confirm(cli, &format!("overwrite the whole image on {} with the primary's data", image.on))?;
            let answer = client.post(&order(&image.name, "sync"), json!({"unit": image.on})).await?;
            follow::wait(cli, client, image, wait).await?;
            Ok(answer)
        }
        MirrorCommand::Fracture { image } => {
            confirm(cli, &format!("stop sending writes of {} to {}", image.name, image.on))?;
            client.post(&order(&image.name, "fracture"), json!({"unit": image.on})).await
        }
        MirrorCommand::Restore { image, wait } => {
            let answer = client.post(&order(&image.name, "restore"), json!({"unit": image.on})).await?;
            follow::wait(cli, client, image, wait).await?;
            Ok(answer)
        }
        MirrorCommand::Activate { name } => client.post(&order(name, "activate"), json!({})).await,
        MirrorCommand::Deactivate { name, force } => {
            confirm(cli, &format!("keep hosts out of mirror {name}"))?;
            client.post(&order(name, "deactivate"), json!({"force": force})).await
        }
        MirrorCommand::Destroy { name } => {
            confirm(cli, &format!("end mirror {name}; LUs and data stay"))?;
            client.post(&order(name, "destroy"), json!({})).await
        }
        MirrorCommand::Set { name, on, attributes } => {
            let attributes: BTreeMap<_, _> = attributes.iter().cloned().collect();
            client.post(&order(name, "set"), json!({"unit": on, "attributes": attributes})).await
        }
        MirrorCommand::List => client.get("/v1/mirrors").await,
        MirrorCommand::Show { name } => client.get(&format!("/v1/mirrors/{}", segment(name))).await,
        MirrorCommand::Why { name } => client.get(&order(name, "why")).await,
        MirrorCommand::Watch { .. } => unreachable!("watching prints by itself"),
    }
}

/// Asks on a terminal; in scripts `--yes` is needed. A dry run changes nothing and needs neither.
fn confirm(cli: &Cli, what: &str) -> Result<(), Problem> {
    if cli.yes || cli.dry_run {
        return Ok(());
    }
    let refused =
        |detail: String, remedy: &str| Problem::new(ProblemKind::Refused, "E-CLIENT-CONFIRM", detail, remedy);
    if !std::io::stdin().is_terminal() {
        return Err(refused(format!("this would {what}"), "add --yes, or --dry-run to see the effect only"));
    }
    eprint!("This will {what}. Go on? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    if matches!(line.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(refused("nothing was done".into(), ""))
    }
}
