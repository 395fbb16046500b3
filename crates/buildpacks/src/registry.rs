//! From a buildpack's name or address to the buildpack; and which one fits when none is set.

use crate::classic::{self, ClassicBuildpack};
use crate::context::BuildContext;
use crate::error::BuildError;
use crate::golang::Go;
use crate::nodejs::NodeJs;
use crate::procfile_only::ProcfileOnly;
use crate::python::Python;
use crate::static_site::StaticSite;
use crate::{Buildpack, Detection};
use std::path::Path;

/// Names of what is built in, as `buildpacks:set` takes them.
pub const BUILT_IN: [&str; 5] =
    ["heroku/nodejs", "heroku/python", "heroku/go", "heroku/static", "heroku/procfile"];

/// Files that tell of a language, in Heroku's order of detection; but for Go its buildpack is not built in.
const OTHER_LANGUAGES: [(&str, &str); 12] = [
    ("Gemfile", "Ruby"),
    ("project.clj", "Clojure"),
    ("pom.xml", "Java"),
    ("build.gradle", "Gradle"),
    ("build.gradle.kts", "Gradle"),
    ("gradlew", "Gradle"),
    ("build.sbt", "Scala"),
    ("composer.json", "PHP"),
    ("index.php", "PHP"),
    ("go.mod", "Go"),
    ("mix.exs", "Elixir"),
    ("Cargo.toml", "Rust"),
];

/// A buildpack that is about to run.
pub struct Candidate {
    /// As it is installed on an app.
    pub url: String,
    pub buildpack: Box<dyn Buildpack>,
    /// Set when its detect step has already passed.
    pub detected_as: Option<String>,
    /// Whether an app on which it was detected should keep it from now on.
    pub pin: bool,
}

/// How a buildpack is called in the build's text: registry names without their urn.
#[must_use]
pub fn display_name(name: &str) -> &str {
    name.strip_prefix("urn:buildpack:").unwrap_or(name)
}

/// The buildpack that was set as `name`; a third-party one is fetched into `directory`.
///
/// # Errors
/// The name is not known, or it cannot be fetched.
pub fn resolve(name: &str, context: &BuildContext, directory: &Path) -> Result<Candidate, BuildError> {
    let short = display_name(name);
    let buildpack: Box<dyn Buildpack> = match short {
        "heroku/nodejs" => Box::new(NodeJs),
        "heroku/python" => Box::new(Python),
        "heroku/go" => Box::new(Go),
        "heroku/static" => Box::new(StaticSite),
        "heroku/procfile" => Box::new(ProcfileOnly),
        _ => match classic::fetch::Address::parse(short) {
            Some(address) => Box::new(ClassicBuildpack::fetch(short, &address, context, directory)?),
            None => {
                return Err(BuildError::UnknownBuildpack {
                    name: short.to_owned(),
                    built_in: BUILT_IN.join(", "),
                });
            }
        },
    };
    Ok(Candidate { url: short.to_owned(), buildpack, detected_as: None, pin: false })
}

/// The built-in buildpack that fits the source.
///
/// # Errors
/// [`BuildError::NoLanguage`] when none does.
pub fn detect(context: &BuildContext) -> Result<Candidate, BuildError> {
    let other_before = |before: &str| {
        OTHER_LANGUAGES.into_iter().find(|(file, language)| {
            *language == before && context.has_file(file) && !crate::python::has_package_manager_file(context)
        })
    };
    if let Some((file, language)) = other_before("Ruby") {
        return Err(other_language(file, language));
    }
    if let Detection::Passed { name } = NodeJs.detect(context)? {
        return Ok(found("heroku/nodejs", Box::new(NodeJs), name));
    }
    if let Some((file, language)) = other_before("Clojure") {
        return Err(other_language(file, language));
    }
    if let Detection::Passed { name } = Python.detect(context)? {
        return Ok(found("heroku/python", Box::new(Python), name));
    }
    if let Some((file, language)) = OTHER_LANGUAGES.into_iter().find(|(file, _)| context.has_file(file)) {
        if let Detection::Passed { name } = Go.detect(context)?
            && language == name
        {
            return Ok(found("heroku/go", Box::new(Go), name));
        }
        return Err(other_language(file, language));
    }
    if let Detection::Passed { name } = StaticSite.detect(context)? {
        return Ok(found("heroku/static", Box::new(StaticSite), name));
    }
    match ProcfileOnly.detect(context)? {
        // Not pinned: the day a language is added to the app, it should be found.
        Detection::Passed { name } => Ok(Candidate {
            url: "heroku/procfile".to_owned(),
            buildpack: Box::new(ProcfileOnly),
            detected_as: Some(name),
            pin: false,
        }),
        Detection::Failed { .. } => Err(BuildError::NoLanguage {
            hint: "Add the file that its language is known by (requirements.txt, package.json ...), or a Procfile for an app that needs no build,\n\t\t\tor set a buildpack: heroku buildpacks:set https://github.com/OWNER/REPOSITORY.git".to_owned(),
        }),
    }
}

fn found(url: &str, buildpack: Box<dyn Buildpack>, name: String) -> Candidate {
    Candidate { url: url.to_owned(), buildpack, detected_as: Some(name), pin: true }
}

fn other_language(file: &str, language: &str) -> BuildError {
    BuildError::NoLanguage {
        hint: format!(
            "{file} looks like {language}, which has no built-in buildpack here. Set one by its address:\n\t\t\theroku buildpacks:set https://github.com/OWNER/REPOSITORY.git\n\t\t\tAn app that needs no build is taken as it is with: heroku buildpacks:set heroku/procfile"
        ),
    }
}
