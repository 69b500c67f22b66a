//! The punching agent against NATs of every kind, in virtual time.

mod bounds;
mod chaos;
mod dice;
mod hostile;
mod matrix;
mod nat;
mod paths;
mod reasons;
mod world;
