//! Settings: YAML, environment and flags become one validated [`Settings`].
