"""The command `dim-jax table`, for who has not installed it."""

from dim_jax.commands.table import main

if __name__ == '__main__':
  main()
