//! Apps that need no build: a Procfile, and programs that the stack already has (shell, python3) or that are checked in.

use crate::context::BuildContext;
use crate::error::BuildError;
use crate::{Buildpack, Detection, ReleaseInfo};

/// The built-in buildpack `heroku/procfile`.
pub struct ProcfileOnly;

impl Buildpack for ProcfileOnly {
    fn detect(&self, context: &BuildContext) -> Result<Detection, BuildError> {
        Ok(match context.has_file("Procfile") {
            true => Detection::Passed { name: "Procfile".to_owned() },
            false => Detection::Failed {
                help: vec![
                    "The app has no file named Procfile in its root folder. Add one, such as:".to_owned(),
                    "web: ./run.sh".to_owned(),
                ],
            },
        })
    }

    fn compile(&self, context: &mut BuildContext) -> Result<(), BuildError> {
        context.output.detail("The app's files are taken as they are; nothing is installed.");
        Ok(())
    }

    fn release(&self, _context: &BuildContext) -> Result<ReleaseInfo, BuildError> {
        Ok(ReleaseInfo::default())
    }
}
