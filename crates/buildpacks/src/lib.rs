//! buildpacks
