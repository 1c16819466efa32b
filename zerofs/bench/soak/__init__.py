"""The soak: a mount that is read without a pause while its stores, its disk and its process fail, a fault each second.

Role: ``python -m zerofs.bench soak``.  Everything is drawn from one seed: the tree, what is read, which faults come.
Real parts only: redis-servers behind proxies that spoil their answers, a small disk, signals.  The pieces serve the
fault matrix of the tests as well.
"""
