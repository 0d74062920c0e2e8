"""Where runs are executed: in processes of this machine (`local`), or on a Ray cluster (`ray`)."""
