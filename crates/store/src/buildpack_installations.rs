//! Which buildpacks an app uses: their rows.
