"""The command `dim-jax measure`, for who has not installed it."""

from dim_jax.commands.measure import main

if __name__ == '__main__':
  main()
