//! Which Go an app asks for.
//!
//! First the config var `GOVERSION`, then a comment `// +heroku goVersion go1.22` in go.mod, then go.mod's `toolchain`: exactly
//! that version (one of two parts: the newest of that series). Else go.mod's `go` line: that version or a newer one, by
//! Go's own promise of compatibility.

use std::fmt;

/// A release of Go: 1.22.5, 1.27rc1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoVersion {
    pub major: u32,
    pub minor: u32,
    patch: Option<u32>,
    /// `rc1`, `beta2`.
    candidate: Option<String>,
}

/// What is asked for, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub version: GoVersion,
    /// A newer one is as good.
    pub at_least: bool,
    pub origin: &'static str,
}

impl fmt::Display for GoVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "go{}.{}", self.major, self.minor)?;
        if let Some(candidate) = &self.candidate {
            return formatter.write_str(candidate);
        }
        self.patch.map_or(Ok(()), |patch| write!(formatter, ".{patch}"))
    }
}

impl GoVersion {
    /// Reads `go1.22.5`, `1.22`, `go1.27rc1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut parts = text.strip_prefix("go").unwrap_or(text).splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next().unwrap_or("0");
        let digits = minor.find(|character: char| !character.is_ascii_digit()).unwrap_or(minor.len());
        let (minor, candidate) = minor.split_at(digits);
        let candidate = (!candidate.is_empty()).then(|| candidate.to_owned());
        if candidate.as_ref().is_some_and(|text| !text.starts_with("rc") && !text.starts_with("beta")) {
            return None;
        }
        let patch = parts.next().map(|patch| patch.parse().map_err(drop)).transpose().ok()?;
        Some(Self { major, minor: minor.parse().ok()?, patch, candidate })
    }

    fn series(&self) -> (u32, u32) {
        (self.major, self.minor)
    }

    fn is_series(&self) -> bool {
        self.patch.is_none() && self.candidate.is_none()
    }

    /// Whether it can fetch other versions by itself, by `GOTOOLCHAIN`.
    #[must_use]
    pub fn can_switch(&self) -> bool {
        self.series() >= (1, 21)
    }
}

impl Wanted {
    /// Whether `found` is as good as what is asked for.
    #[must_use]
    pub fn is_met_by(&self, found: &GoVersion) -> bool {
        if self.at_least {
            let number = |version: &GoVersion| (version.series(), version.patch.unwrap_or(0));
            return found.candidate.is_none() && number(found) >= number(&self.version);
        }
        *found == self.version || (self.version.is_series() && found.series() == self.version.series())
    }

    /// The release to fetch, of those that there are.
    #[must_use]
    pub fn choose(&self, available: &[GoVersion]) -> Option<GoVersion> {
        let of_series = available.iter().filter(|version| version.series() == self.version.series());
        match self.version.is_series() {
            true => of_series.filter(|version| version.candidate.is_none()).max().cloned(),
            false => of_series.into_iter().find(|version| **version == self.version).cloned(),
        }
    }
}

/// What go.mod says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GoMod {
    pub module: String,
    pub wanted: Option<Wanted>,
    /// `// +heroku install`: packages to install.
    pub install: Vec<String>,
    /// What was written where a version should be, and where.
    pub bad_version: Option<(&'static str, String)>,
}

/// Reads go.mod, with the config var `GOVERSION` before all that it says about versions.
#[must_use]
pub fn read(text: &str, go_version: Option<&str>) -> GoMod {
    let mut found = GoMod::default();
    let mut asked: [Option<&str>; 4] = [go_version.filter(|text| !text.trim().is_empty()), None, None, None];
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("module"), Some(name), _) => found.module = name.trim_matches(['"', '`']).to_owned(),
            (Some("go"), Some(version), _) => asked[3] = asked[3].or(Some(version)),
            (Some("toolchain"), Some(version), _) if version != "default" => {
                asked[2] = asked[2].or(Some(version))
            }
            (Some("//"), Some("+heroku"), Some("goVersion")) => asked[1] = asked[1].or(words.next()),
            (Some("//"), Some("+heroku"), Some("install")) => {
                found.install = words.map(str::to_owned).collect()
            }
            _ => {}
        }
    }
    const ORIGINS: [&str; 4] = [
        "the config var GOVERSION",
        "the goVersion comment in go.mod",
        "toolchain in go.mod",
        "go in go.mod",
    ];
    let asked = asked.into_iter().zip(ORIGINS).find_map(|(text, origin)| Some((text?, origin)));
    if let Some((text, origin)) = asked {
        match GoVersion::parse(text) {
            // A toolchain line names the least as well, says Go's documentation.
            Some(version) => {
                let at_least = origin == ORIGINS[2] || origin == ORIGINS[3];
                found.wanted = Some(Wanted { version, at_least, origin });
            }
            None => found.bad_version = Some((origin, text.to_owned())),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> GoVersion {
        GoVersion::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn reads_go_mod_in_herokus_order() {
        let text = "module \"example.com/hello/v2\"\n\n// +heroku goVersion go1.22\n// +heroku install ./cmd/... .\ngo 1.21.0\ntoolchain go1.23.4\n";
        let found = read(text, None);
        assert_eq!(
            (found.module.as_str(), found.install.join(" ")),
            ("example.com/hello/v2", "./cmd/... .".to_owned())
        );
        let wanted = found.wanted.expect("named");
        assert_eq!((wanted.version.to_string(), wanted.at_least), ("go1.22".to_owned(), false));
        assert_eq!(read(text, Some("go1.20.1")).wanted.expect("named").version, version("1.20.1"));
        let plain = read("module x\ngo 1.21.0\ntoolchain go1.23.4\n", Some("")).wanted.expect("named");
        assert_eq!((plain.version.to_string(), plain.at_least), ("go1.23.4".to_owned(), true));
        assert_eq!(read("module x\ngo one\n", None).bad_version, Some(("go in go.mod", "one".to_owned())));
        assert_eq!(read("module x\n", None).wanted, None);
    }

    #[test]
    fn chooses_what_fits() {
        let wants = |text: &str, at_least| Wanted { version: version(text), at_least, origin: "x" };
        assert!(wants("1.21", true).is_met_by(&version("go1.26.8")));
        assert!(!wants("1.26.9", true).is_met_by(&version("go1.26.8")));
        assert!(!wants("1.21", false).is_met_by(&version("go1.22.1")));
        assert!(wants("1.22", false).is_met_by(&version("go1.22.1")));
        assert!(!wants("1.22.2", false).is_met_by(&version("go1.22.1")));
        let all = ["go1.21.9", "go1.22rc1", "go1.22.0", "go1.22.10", "go1.22.9", "go1.27rc1"].map(version);
        let chosen = |text: &str| wants(text, false).choose(&all).map(|version| version.to_string());
        assert_eq!(chosen("1.22"), Some("go1.22.10".to_owned()));
        assert_eq!(chosen("1.22.9"), Some("go1.22.9".to_owned()));
        assert_eq!(chosen("1.27rc1"), Some("go1.27rc1".to_owned()));
        assert_eq!(chosen("1.27"), None);
        assert_eq!(GoVersion::parse("1.2x"), None);
    }
}
