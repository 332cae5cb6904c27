//! `casemated`: everything of Casemate that touches the world.
