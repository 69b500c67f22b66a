//! The punching agent against NATs of every kind, in virtual time.

mod dice;
mod matrix;
mod nat;
mod paths;
mod world;
