//! `system …`: one HSM as a machine.

use clap::Subcommand;

use super::system_test;

use crate::exit::Failure;
use crate::profile::Context;

/// Administer one HSM.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show versions and the device id
    Info,
    /// Reboot it
    Reboot,
    /// Shut it down
    Shutdown,
    /// Erase everything in it
    FactoryReset,
    /// Test a new HSM: set it up, use every type of key, erase it
    Test(system_test::Test),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Command::Info => {
                let info = context.session()?.system().info()?;
                let members = vec![
                    ("Software version", info.software_version.clone()),
                    ("Software build", info.software_build.clone()),
                    ("Firmware version", info.firmware_version.clone()),
                    ("Hardware version", info.hardware_version.clone()),
                    ("Device id", info.device_id.clone()),
                ];
                context.out.record(&info, members)
            }
            Command::Test(arguments) => arguments.run(context),
            Command::Reboot => {
                context.confirm("Interrupting the service by a reboot")?;
                context.session()?.system().reboot()?;
                context.out.done("The HSM reboots.")
            }
            Command::Shutdown => {
                context.confirm("Shutting the HSM down from here")?;
                context.session()?.system().shutdown()?;
                context.out.done("The HSM shuts down.")
            }
            Command::FactoryReset => {
                context.confirm("Erasing all keys, users and settings")?;
                context.session()?.system().factory_reset()?;
                context.out.done("The HSM erases everything and starts Unprovisioned.")
            }
        }
    }
}
