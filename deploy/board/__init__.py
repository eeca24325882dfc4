"""Services of a board, standard library only: a store of files, a lock, and jobs that outlive a connection.

    here                                    on the board
    devices/ssh.py -- ssh -- agent.py       requests: put, get, run, lock, start a job
    relay.py ------- ssh -- attach.py -- job.py --- the job (a worker)

``agent`` lives as long as one connection; the ``job`` supervisor lives as long as its job, and the relay comes back to
it when a connection was lost. ``python -m deploy.board`` starts each of them.
"""
