"""What will be read next is fetched before it is read.

`prefetcher` is told by the engine what readers want and answers the fetcher's background threads what to fetch;
`plan` decides, from the `readahead` inside files, guesses, and the `replay` of a `profile` that a `recorder` of an
earlier mount wrote.  Everything but the prefetcher is free of threads, clocks and stores.
"""
