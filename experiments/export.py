"""The command `dim-jax export`, for who has not installed it."""

from dim_jax.commands.export import main

if __name__ == '__main__':
  main()
