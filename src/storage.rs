//! The one store: an adapter of `fleet_actors::ports::Store`.
