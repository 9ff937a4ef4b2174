"""postsale: signals and agent decisions as one immutable log."""
