"""`--supervised`: the job runs as a child that is ended when it hangs and is started again from what is on disk."""
