"""When every launch of a chunk began and ended, lane by lane, as a trace and as a picture."""
