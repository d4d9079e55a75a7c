"""The command `dim-jax evaluate`, for who has not installed it."""

from dim_jax.commands.evaluate import main

if __name__ == '__main__':
  main()
