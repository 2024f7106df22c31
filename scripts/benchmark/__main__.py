"""Run the benchmark. Processes that it starts read this file too, and must not load all that it loads."""

if __name__ == "__main__":
    from command import run

    run()
